"""What becomes of a view's colours, on the host or on the device."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import ml_collections

from byol_jax.augmentation import batched
from byol_jax.augmentation import draws as columns
from byol_jax.augmentation import operations


def photometric(
    image: jax.Array | batched.Planes, draws: jax.Array,
    settings: ml_collections.ConfigDict, ops: Any = operations) -> jax.Array:
  """Colour jitter, grayscale, blur, solarize, clip: the original's.

  What the settings switch off is left out.

  Args:
    image: float32 [3, S, S] in [0, 1]: one crop, flipped or not; or what `ops`
      takes for one.
    draws: float32 [draws.COUNT] in [0, 1), its view's.
    settings: a view's config.
    ops: `operations`, or `batched`, which does the same.

  Returns:
    float32 [S, S, 3] in [0, 1].
  """
  order = jnp.argsort(draws[columns.ORDER], stable=True)
  parameters = _jitter_parameters(draws, settings)
  low, high = settings.blur_sigma_range
  steps = (
      (columns.JITTER, settings.jitter_prob if parameters else 0.0,
       lambda x: ops.color_jitter(x, order, parameters)),
      (columns.GRAYSCALE, settings.grayscale_prob, ops.to_grayscale),
      (columns.BLUR, settings.blur_prob, lambda x: ops.gaussian_blur(
          x, low + draws[columns.SIGMA] * (high - low))),
      (columns.SOLARIZE, settings.solarize_prob, lambda x: ops.solarize(
          x, settings.solarize_threshold)))
  for draw, prob, change in steps:
    image = _with_prob(draws[draw], prob, change, image)
  return ops.to_image(ops.clip(image))


def make_views_fn(config: ml_collections.ConfigDict) -> Callable[
    [dict[str, Any]], dict[str, Any]]:
  """What the step does with a batch first.

  Args:
    config: `augment` is read.

  Returns:
    Where views are made on the host, the identity. Else a function that takes
    `crops`, two arrays uint8 [B, 3, S, S], whose rows are columns, and their
    `draws`, float32 [B, draws.COUNT] each, out of a batch, and puts in `views`,
    two arrays float32 [B, S, S, 3] in [0, 1].
  """
  if not config.augment.device:
    return lambda batch: batch

  def make_view(
      crops: jax.Array, draws: jax.Array, settings: ml_collections.ConfigDict
  ) -> jax.Array:
    return jax.vmap(lambda pixels, draws: photometric(
        batched.to_planes(pixels), draws, settings, batched))(crops, draws)

  def make_views(batch: dict[str, Any]) -> dict[str, Any]:
    rest = dict(batch)
    crops, draws = rest.pop('crops'), rest.pop('draws')
    settings = (config.augment.view1, config.augment.view2)
    return rest | {'views': tuple(
        map(make_view, crops, draws, settings))}

  return make_views


def _jitter_parameters(
    draws: jax.Array, settings: ml_collections.ConfigDict
) -> dict[int, jax.Array]:
  """How far each of the colour operations goes; those that go nowhere not."""
  strengths = {
      operations.BRIGHTNESS: (0.0, settings.brightness),
      operations.CONTRAST: (1.0, settings.contrast),
      operations.SATURATION: (1.0, settings.saturation),
      operations.HUE: (0.0, settings.hue)}
  signed = 2.0 * draws[columns.DELTAS] - 1.0
  return {
      operation: center + strength * signed[operation]
      for operation, (center, strength) in strengths.items() if strength}


def _with_prob(
    draw: jax.Array, prob: float, change: Callable[[Any], Any], image: Any
) -> Any:
  # The draws are below one, so that a probability of one is certain; the
  # original's `draw <= prob` differs once in 2**23.
  if prob <= 0.0:
    return image
  if prob >= 1.0:
    return change(image)
  return lax.cond(draw < prob, change, lambda x: x, image)

"""One view of a batch: its draws, its crop boxes, its photometric changes.

Every draw of a view has a column of its own, used or not, so that changing
one probability in the config changes nothing else.
"""

from typing import NamedTuple

import ml_collections
import tensorflow as tf

from byol_jax.data import augment
from byol_jax.data import crop

NUM_DRAWS = 18
_CROP = slice(0, 4)  # area, aspect ratio, y, x
_FLIP, _JITTER = 4, 5
_ORDER = slice(6, 10)
_DELTAS = slice(10, 14)  # brightness, contrast, saturation, hue
_GRAYSCALE, _BLUR, _SIGMA, _SOLARIZE = 14, 15, 16, 17


class JitterDraws(NamedTuple):
  """`augment.color_jitter`'s arguments: order [B, 4], float32 [B] by op."""
  order: tf.Tensor
  parameters: dict[int, tf.Tensor]


def crop_boxes(
    draws: tf.Tensor, sizes: tf.Tensor,
    settings: ml_collections.ConfigDict) -> tf.Tensor:
  """Random crops of a view.

  Args:
    draws: float32 [B, NUM_DRAWS] in [0, 1).
    sizes: int32 [B, 2], height and width of each image.
    settings: a view's config (`config.get_view_config`).

  Returns:
    int32 [B, 4] (y, x, height, width).
  """
  return crop.random_crop_boxes(
      draws[:, _CROP], sizes, area_range=tuple(settings.crop_area_range),
      aspect_ratio_range=tuple(settings.crop_aspect_ratio_range))


def flip(images: tf.Tensor, draws: tf.Tensor, prob: float) -> tf.Tensor:
  """Mirrors each of [B, H, W, 3] with that probability."""
  return _with_prob(draws[:, _FLIP], prob, augment.flip_left_right, images)


def photometric(
    images: tf.Tensor, draws: tf.Tensor,
    settings: ml_collections.ConfigDict) -> tf.Tensor:
  """Flip, colour jitter, grayscale, blur, solarize, clip: the original's.

  What the settings switch off is left out of the graph.

  Args:
    images: float32 [B, H, W, 3] in [0, 1], cropped.
    draws: float32 [B, NUM_DRAWS] in [0, 1).
    settings: a view's config.

  Returns:
    float32 [B, H, W, 3] in [0, 1].
  """
  images = flip(images, draws, settings.flip_prob)
  jitter = jitter_draws(draws, settings)
  if jitter.parameters:
    operations = list(jitter.parameters)
    images = _with_prob(
        draws[:, _JITTER], settings.jitter_prob,
        lambda x, order, *values: augment.color_jitter(
            x, order, dict(zip(operations, values, strict=True))),
        images, jitter.order, *jitter.parameters.values())
  images = _with_prob(
      draws[:, _GRAYSCALE], settings.grayscale_prob, augment.to_grayscale,
      images)
  if augment.blur_radius(images.shape[1]):
    low, high = settings.blur_sigma_range
    images = _with_prob(
        draws[:, _BLUR], settings.blur_prob, augment.gaussian_blur, images,
        low + draws[:, _SIGMA] * (high - low))
  images = _with_prob(
      draws[:, _SOLARIZE], settings.solarize_prob,
      lambda x: augment.solarize(x, settings.solarize_threshold), images)
  return augment.clip(images)


def jitter_draws(
    draws: tf.Tensor, settings: ml_collections.ConfigDict) -> JitterDraws:
  """The order of the four colour operations, and how far each one goes.

  An operation of strength zero is left out of the parameters.
  """
  order = tf.argsort(draws[:, _ORDER], axis=1, stable=True)
  strengths = {
      augment.BRIGHTNESS: (0.0, settings.brightness),
      augment.CONTRAST: (1.0, settings.contrast),
      augment.SATURATION: (1.0, settings.saturation),
      augment.HUE: (0.0, settings.hue)}
  signed = 2.0 * draws[:, _DELTAS] - 1.0
  return JitterDraws(order, {
      operation: center + strength * signed[:, operation]
      for operation, (center, strength) in strengths.items()
      if strength and settings.jitter_prob})


def _with_prob(draw, prob, fn, images, *parameters):
  # The draws are below one, so that a probability of one is certain; the
  # original's `draw <= prob` differs once in 2**23.
  if prob <= 0.0:
    return images
  if prob >= 1.0:
    return fn(images, *parameters)
  return augment.apply_where(draw < prob, fn, images, *parameters)

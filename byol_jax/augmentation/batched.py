"""The same operations where many images are changed at once, as in the step.

Mapped over a batch, a branch is none: whatever an image might need is computed
for each, and then chosen from. So jitter is one arithmetic here, whose numbers
say what comes when. It reads an image twice, the first time for the means that
contrast turns about, and not several times for each operation.

An image is three planes, float32 [S, S] in [0, 1], whose rows are the image's
columns: what is cut out of one array and joined to another, channel by channel,
goes to memory in between. All is equal to `operations`, to rounding.
"""

from collections.abc import Callable
import functools

import jax
from jax import lax
import jax.numpy as jnp

from byol_jax.augmentation import operations
from byol_jax.augmentation.operations import BRIGHTNESS
from byol_jax.augmentation.operations import CONTRAST
from byol_jax.augmentation.operations import HUE
from byol_jax.augmentation.operations import SATURATION

Planes = tuple[jax.Array, jax.Array, jax.Array]


def to_planes(pixels: jax.Array) -> Planes:
  """Of bytes, uint8 [3, S, S]."""
  return _each(lambda x: x.astype(jnp.float32) / 255.0, pixels)


def to_image(image: Planes) -> jax.Array:
  """Turned back, as one array, float32 [S, S, 3]."""
  return jnp.swapaxes(jnp.stack(image, axis=-1), 0, 1)


def to_grayscale(image: Planes) -> Planes:
  """Luma, on three equal channels."""
  luma = operations.luma(*image)
  return luma, luma, luma


def gaussian_blur(image: Planes, sigma: jax.Array) -> Planes:
  """As two products with band matrices: what accelerators do best."""
  height, width = image[0].shape
  radius = operations.blur_radius(height)
  if radius == 0:
    return image
  total = jnp.sum(operations.gaussian(operations.tap_distances(radius), sigma))

  def band(size: int) -> jax.Array:
    # Computed where it is needed; looked up in the taps it would be stored.
    pixels = jnp.arange(size, dtype=jnp.float32)
    distances = jnp.abs(pixels[:, None] - pixels[None])
    return jnp.where(
        distances <= radius, operations.gaussian(distances, sigma) / total, 0.0)

  rows, columns = band(height), band(width)
  multiply = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
  return _each(lambda x: multiply(multiply(rows, x), columns), image)


def solarize(image: Planes, threshold: float) -> Planes:
  """Inverts what is not below the threshold."""
  return _each(lambda x: operations.solarize(x, threshold), image)


def clip(image: Planes) -> Planes:
  """To [0, 1]."""
  return _each(operations.clip, image)


def color_jitter(
    image: Planes, order: jax.Array, parameters: dict[int, jax.Array]
) -> Planes:
  """Brightness, contrast, saturation, hue, in the given order.

  Saturation and hue are two stages, with two for brightness and contrast, in
  whichever order, before them, between them and after them: eight, of which
  those that have nothing to do change nothing.

  Args:
    image: see above.
    order: int32 [4], the operations in the order of application.
    parameters: float32 [] by operation; one that is missing is left out.

  Returns:
    The image, clipped after each operation.
  """
  place = jnp.argsort(order)
  linear, colored = jnp.arange(6), jnp.arange(2)

  def comes_after(operation: int, *others: int) -> jax.Array:
    return sum((place[other] < place[operation]).astype(jnp.int32)
               for other in others)

  def linear_stage(operation: int, other: int) -> jax.Array:
    return (2 * comes_after(operation, SATURATION, HUE)
            + comes_after(operation, other))

  contrast_stage = linear_stage(CONTRAST, BRIGHTNESS)
  brightness = jnp.where(
      linear == linear_stage(BRIGHTNESS, CONTRAST),
      parameters.get(BRIGHTNESS, 0.0), 0.0)
  contrast = jnp.where(
      linear == contrast_stage, parameters.get(CONTRAST, 1.0), 1.0)
  saturation = jnp.where(
      colored == comes_after(SATURATION, HUE),
      parameters.get(SATURATION, 1.0), 1.0)
  hue = jnp.where(
      colored == comes_after(HUE, SATURATION), parameters.get(HUE, 0.0), 0.0)

  before = linear < contrast_stage
  colored_before = colored < contrast_stage // 2
  before_contrast = _apply_stages(
      image, jnp.where(before, brightness, 0.0), jnp.ones(6),
      jnp.where(colored_before, saturation, 1.0),
      jnp.where(colored_before, hue, 0.0), means=image)
  return _apply_stages(
      image, brightness, contrast, saturation, hue,
      means=_each(operations.mean, before_contrast))


def _apply_stages(
    image: Planes, brightness: jax.Array, contrast: jax.Array,
    saturation: jax.Array, hue: jax.Array, means: Planes) -> Planes:
  """Of brightness and contrast [6], of saturation and hue [2]."""
  for stage in range(6):
    image = tuple(
        operations.clip(
            contrast[stage] * x
            + ((1.0 - contrast[stage]) * mean + brightness[stage]))
        for x, mean in zip(image, means, strict=True))
    if stage in (1, 3):
      image = _adjust_color(image, saturation[stage // 2], hue[stage // 2])
  return image


def _adjust_color(
    image: Planes, saturation: jax.Array, hue: jax.Array) -> Planes:
  """In HSV: saturation is scaled, and hue moved, in turns."""
  value, chroma = operations.value_and_chroma(*image)
  sextant = operations.sextant(*image, value, chroma) + 6.0 * hue
  chroma *= operations.saturation_scale(value, chroma, saturation)
  return operations.from_hue(sextant, value, chroma)


def _each(
    change: Callable[[jax.Array], jax.Array], image: Planes | jax.Array
) -> Planes:
  red, green, blue = map(change, image)
  return red, green, blue

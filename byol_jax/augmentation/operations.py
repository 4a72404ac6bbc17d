"""The original's photometric operations, in jax.numpy, on one image.

An image is float32 [3, H, W] in [0, 1]: in planes, so that the innermost loop
is over many pixels and not over three channels. Parameters are float32
scalars. No operation clips unless it says so. They follow DeepMind's
`utils/augmentations.py`, which differs from torchvision and from SimCLR:
brightness is added, contrast turns about the mean of each channel.

One definition serves both places where a view can be made: the host, where
`compiled` makes it a part of the tf.data pipeline, and the device, where the
training step maps it over a batch.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

# Numbers by which `color_jitter` calls its operations, as in the original.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

_LUMA = (0.2989, 0.5870, 0.1140)


def flip_left_right(image: jax.Array) -> jax.Array:
  """Mirrors the columns."""
  return image[:, :, ::-1]


def adjust_brightness(image: jax.Array, delta: jax.Array) -> jax.Array:
  """Adds delta."""
  return image + delta


def adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the distance to the mean of each channel."""
  # Rows, then columns: one long float32 sum would lose two digits at 224.
  mean = jnp.mean(image, axis=1, keepdims=True)
  mean = jnp.mean(mean, axis=2, keepdims=True)
  return factor * (image - mean) + mean


def adjust_saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the saturation of HSV and clips it to [0, 1].

  Hue and value stay, so the conversion to HSV and back reduces to scaling
  each channel's distance to the largest by s' / s.
  """
  value, chroma = _value_and_chroma(image)
  colored = chroma > 0
  # 1 / s, beyond which s' would pass one. Grey stays grey at any scale.
  limit = jnp.where(colored, value, 1.0) / jnp.where(colored, chroma, 1.0)
  scale = jnp.maximum(jnp.minimum(factor, limit), 0.0)
  return value - (value - image) * scale


def adjust_hue(image: jax.Array, delta: jax.Array) -> jax.Array:
  """Adds delta (in turns) to the hue of HSV, modulo one."""
  red, green, blue = (image[i:i + 1] for i in range(3))
  value, chroma = _value_and_chroma(image)
  divisor = jnp.where(chroma > 0, chroma, 1.0)
  # The hue in sixths of a turn.
  sextant = jnp.where(
      red == value, (green - blue) / divisor,
      jnp.where(green == value, 2.0 + (blue - red) / divisor,
                4.0 + (red - green) / divisor))
  sextant += 6.0 * delta

  def channel(shift: float) -> jax.Array:
    turn = sextant + shift
    turn -= 6.0 * jnp.floor(turn / 6.0)
    return value - chroma * jnp.clip(jnp.minimum(turn, 4.0 - turn), 0.0, 1.0)

  return jnp.concatenate([channel(5.0), channel(3.0), channel(1.0)])


def _value_and_chroma(image: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The largest channel, and its distance to the smallest: [1, H, W]."""
  # As binary operations, which XLA fuses with what follows.
  red, green, blue = (image[i:i + 1] for i in range(3))
  value = jnp.maximum(jnp.maximum(red, green), blue)
  return value, value - jnp.minimum(jnp.minimum(red, green), blue)


def to_grayscale(image: jax.Array) -> jax.Array:
  """Luma, on three equal channels."""
  luma = sum(weight * image[i] for i, weight in enumerate(_LUMA))
  return jnp.stack([luma, luma, luma])


def blur_radius(size: int) -> int:
  """Pixels on each side of a blur's centre, for images of that height."""
  return int(size / 10 / 2)


def gaussian_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
  """Separable Gaussian blur of sigma pixels.

  The window is a tenth of the image's height, so images below 20 pixels stay
  as they are; zero padding darkens the borders, as in the original.
  """
  height, width = image.shape[1:]
  radius = blur_radius(height)
  if radius == 0:
    return image
  taps = _gaussian_taps(radius, sigma)
  # Padded once, and added up as shifted copies: two loops that vectorise.
  image = jnp.pad(image, [(0, 0), (radius, radius), (radius, radius)])
  image = sum(tap * image[:, i:i + height] for i, tap in enumerate(taps))
  return sum(tap * image[:, :, i:i + width] for i, tap in enumerate(taps))


def gaussian_blur_by_matrix(image: jax.Array, sigma: jax.Array) -> jax.Array:
  """The same, as two matrix products: what accelerators do best."""
  height, width = image.shape[1:]
  radius = blur_radius(height)
  if radius == 0:
    return image
  taps = _gaussian_taps(radius, sigma)

  def band(size: int) -> jax.Array:
    pixels = jnp.arange(size)
    offset = pixels[:, None] - pixels[None] + radius
    inside = (offset >= 0) & (offset <= 2 * radius)
    return jnp.where(inside, taps[jnp.clip(offset, 0, 2 * radius)], 0.0)

  multiply = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
  image = multiply('ij,cjw->ciw', band(height), image)
  return multiply('chj,jw->chw', image, band(width))


def _gaussian_taps(radius: int, sigma: jax.Array) -> jax.Array:
  """Weights [2 * radius + 1], summing to one."""
  distances = jnp.abs(jnp.arange(-radius, radius + 1, dtype=jnp.float32))
  taps = jnp.exp(-jnp.square(distances) / (2.0 * jnp.square(sigma)))
  return taps / jnp.sum(taps)


def solarize(image: jax.Array, threshold: float) -> jax.Array:
  """Inverts what is not below the threshold."""
  return jnp.where(image < threshold, image, 1.0 - image)


def clip(image: jax.Array) -> jax.Array:
  """To [0, 1]."""
  return jnp.clip(image, 0.0, 1.0)


def color_jitter(
    image: jax.Array, order: jax.Array, parameters: dict[int, jax.Array]
) -> jax.Array:
  """Brightness, contrast, saturation, hue, in the given order.

  Args:
    image: float32 [3, H, W] in [0, 1].
    order: int32 [4], the operations (`BRIGHTNESS`, ...) in the order of
      application.
    parameters: float32 [] by operation; one that is missing is left out.

  Returns:
    float32 [3, H, W] in [0, 1], clipped after each operation.
  """
  adjust = {
      BRIGHTNESS: adjust_brightness, CONTRAST: adjust_contrast,
      SATURATION: adjust_saturation, HUE: adjust_hue}

  def make_branch(operation: int):
    if operation not in parameters:
      return lambda x: x
    return lambda x: clip(adjust[operation](x, parameters[operation]))

  branches = [make_branch(operation) for operation in range(4)]
  for place in range(4):
    image = lax.switch(order[place], branches, image)
  return image

"""The original's photometric operations, in jax.numpy, on one image.

An image is float32 [3, H, W] in [0, 1]: in planes, so that the innermost loop
is over many pixels and not over three channels. Parameters are float32
scalars. No operation clips unless it says so. They follow DeepMind's
`utils/augmentations.py`, which differs from torchvision and from SimCLR:
brightness is added, contrast turns about the mean of each channel.

On the host `compiled` makes them a part of the tf.data pipeline, image by
image. Where the step makes views, `batched` does the same to many at once.
"""

import jax
from jax import lax
import jax.numpy as jnp

# Numbers by which `color_jitter` calls its operations, as in the original.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def adjust_brightness(image: jax.Array, delta: jax.Array) -> jax.Array:
  """Adds delta."""
  return image + delta


def adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the distance to the mean of each channel."""
  center = mean(image)
  return factor * (image - center) + center


def mean(image: jax.Array) -> jax.Array:
  """Over both axes of pixels, which stay as 1."""
  # Rows, then columns: one long float32 sum would lose two digits at 224.
  return jnp.mean(
      jnp.mean(image, axis=-2, keepdims=True), axis=-1, keepdims=True)


def adjust_saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the saturation of HSV and clips it to [0, 1].

  Hue and value stay, so the conversion to HSV and back reduces to scaling
  each channel's distance to the largest by s' / s.
  """
  value, chroma = value_and_chroma(*_channels(image))
  return value - (value - image) * saturation_scale(value, chroma, factor)


def adjust_hue(image: jax.Array, delta: jax.Array) -> jax.Array:
  """Adds delta (in turns) to the hue of HSV, modulo one."""
  channels = _channels(image)
  value, chroma = value_and_chroma(*channels)
  turned = sextant(*channels, value, chroma) + 6.0 * delta
  return jnp.concatenate(from_hue(turned, value, chroma))


def _channels(image: jax.Array) -> tuple[jax.Array, ...]:
  return tuple(image[i:i + 1] for i in range(3))


def value_and_chroma(
    red: jax.Array, green: jax.Array, blue: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The largest channel, and its distance to the smallest."""
  # As binary operations, which XLA fuses with what follows.
  value = jnp.maximum(jnp.maximum(red, green), blue)
  return value, value - jnp.minimum(jnp.minimum(red, green), blue)


def saturation_scale(
    value: jax.Array, chroma: jax.Array, factor: jax.Array) -> jax.Array:
  """How much of `factor` there is room for."""
  colored = chroma > 0
  # 1 / s, beyond which s' would pass one. Grey stays grey at any scale.
  limit = jnp.where(colored, value, 1.0) / jnp.where(colored, chroma, 1.0)
  return jnp.maximum(jnp.minimum(factor, limit), 0.0)


def sextant(
    red: jax.Array, green: jax.Array, blue: jax.Array, value: jax.Array,
    chroma: jax.Array) -> jax.Array:
  """The hue, in sixths of a turn."""
  divisor = jnp.where(chroma > 0, chroma, 1.0)
  return jnp.where(
      red == value, (green - blue) / divisor,
      jnp.where(green == value, 2.0 + (blue - red) / divisor,
                4.0 + (red - green) / divisor))


def from_hue(
    turned: jax.Array, value: jax.Array, chroma: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Red, green and blue of a hue in sixths of a turn, any number of turns."""
  def channel(shift: float) -> jax.Array:
    turn = turned + shift
    turn -= 6.0 * jnp.floor(turn / 6.0)
    return value - chroma * jnp.clip(jnp.minimum(turn, 4.0 - turn), 0.0, 1.0)

  return channel(5.0), channel(3.0), channel(1.0)


def to_grayscale(image: jax.Array) -> jax.Array:
  """Luma, on three equal channels."""
  gray = luma(*image)
  return jnp.stack([gray, gray, gray])


def luma(red: jax.Array, green: jax.Array, blue: jax.Array) -> jax.Array:
  """The original's weights, TensorFlow's."""
  return 0.2989 * red + 0.5870 * green + 0.1140 * blue


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
  taps = gaussian_taps(radius, sigma)
  # Padded once, and added up as shifted copies: two loops that vectorise.
  image = jnp.pad(image, [(0, 0), (radius, radius), (radius, radius)])
  image = sum(tap * image[:, i:i + height] for i, tap in enumerate(taps))
  return sum(tap * image[:, :, i:i + width] for i, tap in enumerate(taps))


def gaussian_taps(radius: int, sigma: jax.Array) -> jax.Array:
  """Weights [2 * radius + 1], summing to one."""
  taps = gaussian(tap_distances(radius), sigma)
  return taps / jnp.sum(taps)


def tap_distances(radius: int) -> jax.Array:
  """Of a blur's pixels from its centre, [2 * radius + 1]."""
  return jnp.abs(jnp.arange(-radius, radius + 1, dtype=jnp.float32))


def gaussian(distance: jax.Array, sigma: jax.Array) -> jax.Array:
  """One at distance zero."""
  return jnp.exp(-jnp.square(distance) / (2.0 * jnp.square(sigma)))


def solarize(image: jax.Array, threshold: float) -> jax.Array:
  """Inverts what is not below the threshold."""
  return jnp.where(image < threshold, image, 1.0 - image)


def clip(image: jax.Array) -> jax.Array:
  """To [0, 1]."""
  return jnp.clip(image, 0.0, 1.0)


def to_image(image: jax.Array) -> jax.Array:
  """As it is shown, float32 [H, W, 3]."""
  return jnp.transpose(image, (1, 2, 0))


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

"""The original's photometric operations, as batched TensorFlow functions.

Images are float32 [B, H, W, 3] in [0, 1]; every parameter is per image, [B].
No operation clips unless it says so. They follow DeepMind's
`utils/augmentations.py`, which differs from torchvision and from SimCLR:
brightness is added, contrast turns about the mean of each channel.

Each operation gives an image the same bits whatever else is in its batch, so
that the pixels of a run do not depend on the number of processes.
"""

from collections.abc import Callable

import tensorflow as tf

# Numbers by which `color_jitter` calls its operations, as in the original.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

_LUMA = (0.2989, 0.5870, 0.1140)


def _per_image(parameter: tf.Tensor) -> tf.Tensor:
  return parameter[:, tf.newaxis, tf.newaxis, tf.newaxis]


def flip_left_right(images: tf.Tensor) -> tf.Tensor:
  """Mirrors the columns."""
  return tf.reverse(images, axis=[2])


def adjust_brightness(images: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
  """Adds delta."""
  return images + _per_image(delta)


def adjust_contrast(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
  """Scales the distance to the mean of each image and channel."""
  # Rows, then columns: one long float32 sum would lose two digits at 224.
  mean = tf.reduce_mean(images, axis=1, keepdims=True)
  mean = tf.reduce_mean(mean, axis=2, keepdims=True)
  return _per_image(factor) * (images - mean) + mean


def adjust_saturation(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
  """Scales the saturation of HSV and clips it to [0, 1].

  Hue and value stay, so the conversion to HSV and back reduces to scaling
  each channel's distance to the largest by s' / s.
  """
  value = tf.reduce_max(images, axis=3, keepdims=True)
  chroma = value - tf.reduce_min(images, axis=3, keepdims=True)
  ones = tf.ones_like(chroma)
  colored = chroma > 0
  # 1 / s, beyond which s' would pass one. Grey stays grey at any scale.
  limit = tf.where(colored, value, ones) / tf.where(colored, chroma, ones)
  scale = tf.maximum(tf.minimum(_per_image(factor), limit), 0.0)
  return value - (value - images) * scale


def adjust_hue(images: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
  """Adds delta (in turns) to the hue of HSV, modulo one."""
  red, green, blue = tf.unstack(images, axis=3)
  value = tf.maximum(tf.maximum(red, green), blue)
  chroma = value - tf.minimum(tf.minimum(red, green), blue)
  divisor = tf.where(chroma > 0, chroma, tf.ones_like(chroma))
  # The hue in sixths of a turn. Plain divisions, no reciprocals: those are
  # approximate, and not alike, in vectorised code.
  sextant = tf.where(
      red == value, (green - blue) / divisor,
      tf.where(green == value, 2.0 + (blue - red) / divisor,
               4.0 + (red - green) / divisor))
  sextant += 6.0 * delta[:, tf.newaxis, tf.newaxis]

  def channel(shift: float) -> tf.Tensor:
    turn = sextant + shift
    turn -= 6.0 * tf.floor(turn / 6.0)
    share = tf.clip_by_value(tf.minimum(turn, 4.0 - turn), 0.0, 1.0)
    return value - chroma * share

  return tf.stack([channel(5.0), channel(3.0), channel(1.0)], axis=3)


def to_grayscale(images: tf.Tensor) -> tf.Tensor:
  """Luma, on three equal channels."""
  red, green, blue = tf.unstack(images, axis=3)
  luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
  return tf.stack([luma, luma, luma], axis=3)


def blur_radius(size: int) -> int:
  """Pixels on each side of a blur's centre, for images of that height."""
  return int(size / 10 / 2)


def gaussian_blur(images: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
  """Separable Gaussian blur of sigma pixels.

  The window is a tenth of the image's height, so images below 20 pixels stay
  as they are; zero padding darkens the borders, as in the original.
  """
  height, width = images.shape[1:3]
  radius = blur_radius(height)
  if radius == 0:
    return images
  # In double precision: see `crop.random_crop_boxes`.
  distances = tf.range(radius + 1, dtype=tf.float64)
  spread = 2.0 * tf.square(tf.cast(sigma, tf.float64))
  taps = tf.exp(-tf.square(distances) / spread[:, tf.newaxis])
  taps /= 2.0 * tf.reduce_sum(taps, axis=1, keepdims=True) - taps[:, :1]
  taps = tf.pad(tf.cast(taps, tf.float32), [[0, 0], [0, 1]])

  def band(size: int) -> tf.Tensor:
    # Every image has its own kernel, and a product with a band matrix is
    # several times faster than adding up shifted copies.
    pixels = tf.range(size)
    distance = tf.abs(pixels[:, tf.newaxis] - pixels)
    return tf.gather(taps, tf.minimum(distance, radius + 1), axis=1)

  planes = tf.reshape(images, [-1, height, width * 3])
  planes = tf.reshape(tf.matmul(band(height), planes), [-1, height, width, 3])
  planes = tf.transpose(planes, [0, 1, 3, 2])
  planes = tf.reshape(planes, [-1, height * 3, width])
  planes = tf.matmul(planes, band(width))  # symmetric
  planes = tf.reshape(planes, [-1, height, 3, width])
  return tf.transpose(planes, [0, 1, 3, 2])


def solarize(images: tf.Tensor, threshold: float) -> tf.Tensor:
  """Inverts what is not below the threshold."""
  return tf.where(images < threshold, images, 1.0 - images)


def clip(images: tf.Tensor) -> tf.Tensor:
  """To [0, 1]."""
  return tf.clip_by_value(images, 0.0, 1.0)


def color_jitter(
    images: tf.Tensor, order: tf.Tensor,
    parameters: dict[int, tf.Tensor]) -> tf.Tensor:
  """Brightness, contrast, saturation, hue: in each image's order, clipped.

  At each of the four places in the order the batch is divided by the
  operation that is due there, so every image pays for each operation once.

  Args:
    images: float32 [B, H, W, 3] in [0, 1].
    order: int32 [B, 4], the operations (`BRIGHTNESS`, ...) in the order of
      application.
    parameters: float32 [B] by operation; one that is missing is left out.

  Returns:
    float32 [B, H, W, 3] in [0, 1], clipped after each operation.
  """
  operations = {
      BRIGHTNESS: adjust_brightness, CONTRAST: adjust_contrast,
      SATURATION: adjust_saturation, HUE: adjust_hue}
  for place in range(4):
    due = order[:, place]
    rows = tf.dynamic_partition(tf.range(tf.shape(due)[0]), due, 4)
    parts = tf.dynamic_partition(images, due, 4)
    for operation, parameter in parameters.items():
      parts[operation] = clip(operations[operation](
          parts[operation], tf.gather(parameter, rows[operation])))
    images = _join(rows, parts, images.shape)
  return images


def apply_where(
    mask: tf.Tensor, fn: Callable[..., tf.Tensor], images: tf.Tensor,
    *parameters: tf.Tensor) -> tf.Tensor:
  """`fn(images, *parameters)` for the images where mask; others untouched.

  Args:
    mask: bool [B].
    fn: maps [n, H, W, 3] and parameters [n, ...] to [n, H, W, 3].
    images: float32 [B, H, W, 3].
    *parameters: [B, ...] each.

  Returns:
    float32 [B, H, W, 3]. Only the masked images are computed.
  """
  chosen = tf.cast(mask, tf.int32)
  rows = tf.dynamic_partition(tf.range(tf.shape(mask)[0]), chosen, 2)
  parts = tf.dynamic_partition(images, chosen, 2)
  parts[1] = fn(parts[1], *(tf.gather(p, rows[1]) for p in parameters))
  return _join(rows, parts, images.shape)


def _join(rows: list[tf.Tensor], parts: list[tf.Tensor],
          shape: tf.TensorShape) -> tf.Tensor:
  return tf.ensure_shape(tf.dynamic_stitch(rows, parts), shape)

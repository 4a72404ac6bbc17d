"""Crop boxes, and bicubic resizing of a box of an image.

A box is int32 (y, x, height, width) in pixels. Where images of one size are
held in memory, cropping and resizing a batch is two matrix products with
weights that hold the box; where they are encoded, only the box is decoded.
Both give what `tf.image.resize(method=BICUBIC)`, without antialiasing, gives
on the cropped pixels.
"""

import tensorflow as tf

# TF's bicubic kernel looks its weights up at a fractional position rounded to
# this many steps. Rounding the same way is what makes both paths agree.
_KERNEL_STEPS = 1024.0


def random_crop_boxes(
    draws: tf.Tensor, sizes: tf.Tensor, *,
    area_range: tuple[float, float],
    aspect_ratio_range: tuple[float, float]) -> tf.Tensor:
  """The original's random crop: a single draw, clipped to the image.

  Args:
    draws: float32 [B, 4] in [0, 1): area, aspect ratio, y, x.
    sizes: int32 [B, 2], height and width of each image.
    area_range: share of the image's area, uniform.
    aspect_ratio_range: width / height, uniform in its logarithm.

  Returns:
    int32 [B, 4] boxes inside the images, at least one pixel each.
  """
  # In double precision, since the vectorised and the scalar float32 exp and
  # sqrt may differ in the last bit, and which of them an image meets depends
  # on its place in the batch.
  draws = tf.cast(draws, tf.float64)
  low, high = (tf.math.log(tf.constant(r, tf.float64))
               for r in aspect_ratio_range)
  ratio = tf.exp(low + draws[:, 1] * (high - low))
  share = area_range[0] + draws[:, 0] * (area_range[1] - area_range[0])
  area = share * tf.cast(sizes[:, 0] * sizes[:, 1], tf.float64)
  lengths = tf.stack([tf.sqrt(area / ratio), tf.sqrt(area * ratio)], axis=1)
  lengths = tf.cast(tf.round(lengths), tf.int32)
  lengths = tf.clip_by_value(lengths, 1, sizes)
  places = tf.cast(sizes - lengths + 1, tf.float64)
  offsets = tf.cast(tf.floor(draws[:, 2:4] * places), tf.int32)
  return tf.concat([offsets, lengths], axis=1)


def center_crop_boxes(sizes: tf.Tensor, ratio: float) -> tf.Tensor:
  """The original's evaluation crop: a centred square.

  Args:
    sizes: int32 [B, 2], height and width of each image.
    ratio: side of the square as a share of the image's shorter side.

  Returns:
    int32 [B, 4] boxes, at least one pixel each.
  """
  shorter = tf.cast(tf.reduce_min(sizes, axis=1, keepdims=True), tf.float32)
  side = tf.maximum(tf.cast(shorter * ratio, tf.int32), 1)
  offsets = (sizes - side + 1) // 2
  return tf.concat([offsets, tf.tile(side, [1, 2])], axis=1)


def resize_weights(
    start: tf.Tensor, length: tf.Tensor, in_size: int,
    out_size: int) -> tf.Tensor:
  """Bicubic weights of every input pixel for every output pixel, on one axis.

  Keys' kernel (a = -0.5) at half-pixel centres; what falls outside the box
  has weight zero and the rest is renormalised.

  Args:
    start: int32 [B], first pixel of the box.
    length: int32 [B], pixels of the box.
    in_size: pixels of the whole image.
    out_size: pixels of the output.

  Returns:
    float32 [B, out_size, in_size], rows summing to one.
  """
  start, length = start[:, tf.newaxis], length[:, tf.newaxis]
  scale = tf.cast(length, tf.float32) / float(out_size)
  location = (tf.range(out_size, dtype=tf.float32) + 0.5) * scale - 0.5
  floor = tf.floor(location)
  fraction = tf.round((location - floor) * _KERNEL_STEPS) / _KERNEL_STEPS
  center = floor + fraction + tf.cast(start, tf.float32)  # [B, out]
  pixels = tf.range(in_size)
  distance = tf.abs(tf.cast(pixels, tf.float32) - center[:, :, tf.newaxis])
  inside = (pixels >= start) & (pixels < start + length)  # [B, in]
  weights = _keys_kernel(distance) * tf.cast(inside, tf.float32)[:, tf.newaxis]
  return weights / tf.reduce_sum(weights, axis=2, keepdims=True)


def _keys_kernel(distance: tf.Tensor) -> tf.Tensor:
  near = (1.5 * distance - 2.5) * distance * distance + 1.0
  far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
  far = tf.where(distance < 2.0, far, tf.zeros_like(far))
  return tf.where(distance <= 1.0, near, far)


def crop_and_resize(
    images: tf.Tensor, boxes: tf.Tensor, size: int) -> tf.Tensor:
  """Bicubic resize of one box of each image, as two matrix products.

  Args:
    images: uint8 [B, H, W, 3].
    boxes: int32 [B, 4], inside the images.
    size: S.

  Returns:
    float32 [B, S, S, 3] in [0, 1].
  """
  height, width = images.shape[1:3]
  rows = resize_weights(boxes[:, 0], boxes[:, 2], height, size)
  columns = resize_weights(boxes[:, 1], boxes[:, 3], width, size)
  # [B, H, 3, W], so that both products are over contiguous matrices.
  planes = tf.transpose(tf.cast(images, tf.float32), [0, 1, 3, 2])
  planes = tf.reshape(planes, [-1, height, 3 * width])
  planes = tf.reshape(tf.matmul(rows, planes), [-1, 3 * size, width])
  planes = tf.matmul(planes, columns, transpose_b=True)
  planes = tf.reshape(planes, [-1, size, 3, size])
  return to_unit_range(tf.transpose(planes, [0, 1, 3, 2]))


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
  """Bicubic resize, without antialiasing, as the original's.

  Args:
    image: uint8 [h, w, 3] of any size.
    size: S.

  Returns:
    float32 [S, S, 3] in [0, 1].
  """
  resized = tf.image.resize(image, [size, size], tf.image.ResizeMethod.BICUBIC)
  return to_unit_range(resized)


def to_unit_range(pixels: tf.Tensor) -> tf.Tensor:
  """Pixels in [0, 255], bicubic overshoot included, to float32 in [0, 1]."""
  return tf.clip_by_value(tf.cast(pixels, tf.float32) / 255.0, 0.0, 1.0)

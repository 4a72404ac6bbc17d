"""Crop boxes: int32 (y, x, height, width) in pixels."""

import ml_collections
import tensorflow as tf

from byol_jax.augmentation import draws as columns


def view_boxes(
    draws: tf.Tensor, sizes: tf.Tensor, settings: ml_collections.ConfigDict
) -> tf.Tensor:
  """Which part of each image a view shows.

  Args:
    draws: float32 [B, draws.COUNT] in [0, 1).
    sizes: int32 [B, 2], height and width of each image.
    settings: a view's config (`config.get_view_config`).

  Returns:
    int32 [B, 4] boxes.
  """
  return random_crop_boxes(
      draws[:, columns.CROP], sizes, area_range=tuple(settings.crop_area_range),
      aspect_ratio_range=tuple(settings.crop_aspect_ratio_range))


def view_mirrored(
    draws: tf.Tensor, settings: ml_collections.ConfigDict) -> tf.Tensor:
  """Which views are flipped, bool [B]."""
  return draws[:, columns.FLIP] < settings.flip_prob


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

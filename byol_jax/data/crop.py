"""Crop boxes: int32 (y, x, height, width) in pixels."""

from collections.abc import Sequence

import ml_collections
import numpy as np
import tensorflow as tf

from byol_jax.augmentation import draws as columns


def view_boxes(
    draws: tf.Tensor, sizes: tf.Tensor,
    settings: Sequence[ml_collections.ConfigDict]) -> tf.Tensor:
  """Which part of each image each of K views shows.

  Args:
    draws: float32 [K, B, draws.COUNT] in [0, 1).
    sizes: int32 [B, 2], height and width of each image.
    settings: the views' configs (`config.get_view_config`).

  Returns:
    int32 [K, B, 4] boxes.
  """
  areas, ratios = (
      np.array([view[name] for view in settings])[:, np.newaxis]
      for name in ('crop_area_range', 'crop_aspect_ratio_range'))
  return random_crop_boxes(
      draws[..., columns.CROP], sizes, area_range=areas,
      aspect_ratio_range=ratios)


def view_mirrored(
    draws: tf.Tensor, settings: Sequence[ml_collections.ConfigDict]
) -> tf.Tensor:
  """Which views are flipped, bool [K, B]; see `view_boxes`."""
  probs = np.array([[view.flip_prob] for view in settings], np.float32)
  return draws[..., columns.FLIP] < probs


def random_crop_boxes(
    draws: tf.Tensor, sizes: tf.Tensor, *,
    area_range: tuple[float, float] | np.ndarray,
    aspect_ratio_range: tuple[float, float] | np.ndarray) -> tf.Tensor:
  """The original's random crop: a single draw, clipped to the image.

  Args:
    draws: float32 [..., B, 4] in [0, 1): area, aspect ratio, y, x.
    sizes: int32 [B, 2], height and width of each image.
    area_range: share of the image's area, uniform: one for all, or [..., 2].
    aspect_ratio_range: width / height, uniform in its logarithm; likewise.

  Returns:
    int32 [..., B, 4] boxes inside the images, at least one pixel each.
  """
  # In double precision, since the vectorised and the scalar float32 exp and
  # sqrt may differ in the last bit, and which of them an image meets depends
  # on its place in the batch.
  area, ratio, *offsets = tf.unstack(tf.cast(draws, tf.float64), axis=-1)
  smallest, largest = np.moveaxis(np.float64(area_range), -1, 0)
  low, high = np.moveaxis(np.log(np.float64(aspect_ratio_range)), -1, 0)
  ratio = tf.exp(low + ratio * (high - low))
  area = (smallest + area * (largest - smallest)) * tf.cast(
      tf.reduce_prod(sizes, axis=1), tf.float64)
  lengths = tf.stack([area / ratio, area * ratio], axis=-1)
  lengths = tf.cast(tf.round(tf.sqrt(lengths)), tf.int32)
  lengths = tf.minimum(tf.maximum(lengths, 1), sizes)
  places = tf.cast(sizes - lengths + 1, tf.float64)
  offsets = tf.cast(tf.stack(offsets, axis=-1) * places, tf.int32)
  return tf.concat([offsets, lengths], axis=-1)


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

"""Batches of images with their label or depth maps, which move together.

As in `pipeline`, what a position of the run becomes is settled by
`randomness`: the batches are the same wherever a run was resumed and however
many processes make them.
"""

from collections.abc import Callable
from collections.abc import Iterable
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tensorflow as tf

from byol_jax.augmentation import operations
from byol_jax.config import ConfigError
from byol_jax.data import compiled
from byol_jax.data import decoding
from byol_jax.data import randomness
from byol_jax.data.dense import DenseSource
from byol_jax.data.dense_maps import IGNORED
from byol_jax.data.parallel import BATCHES
from byol_jax.data.parallel import parallel_map
from byol_jax.data.parallel import prefetch_in_order

# Streams of draws, beside those of `pipeline`.
_SEGMENTATION_STREAM, _DEPTH_STREAM = 140, 141
# Whole images are a multiple of this plus 1, the output stride of the largest
# stem, so that every padding centres the encoder's maps alike.
_SIZE_STEP = 16

_Batch = dict[str, Any]


def create_segmentation_train_dataset(
    source: DenseSource, settings: ml_collections.ConfigDict, *,
    mean: Iterable[float], total_steps: int, seed: int, start_step: int = 0,
    index: np.ndarray | None = None, process_index: int = 0,
    process_count: int = 1) -> tf.data.Dataset:
  """Random scale, crop and flip: the paper's appendix D.4.

  Where a scaled image is smaller than the crop, it lies anywhere within it,
  on the mean colour, and what is around it is ignored.

  Args:
    source: with label maps.
    settings: `config.segmentation`.
    mean: the colour, in [0, 1].
    total_steps: of the run.
    seed: of order, scales, crops and flips.
    start_step: first batch; nothing is skipped through.
    index: int[M], the examples to learn from; None: all.
    process_index: of this process.
    process_count: divides the batch size.

  Returns:
    A dataset of batches of this process: `image` f32[b, S, S, 3] in [0, 1],
    `label` uint8[b, S, S] and `index` int32[b].
  """
  size = settings.crop_size
  low, high = settings.scale_range
  mean = tf.constant(tuple(mean), tf.float32)

  def make(example: _Batch) -> _Batch:
    draws = randomness.uniform_draws(
        example['position'], 1, 4, seed=seed, stream=_SEGMENTATION_STREAM)[0]
    image = _decode(source, example['index'])
    scale = low + draws[0] * (high - low)
    scaled = tf.round(tf.cast(tf.shape(image)[:2], tf.float32) * scale)
    # Negative where there is room around the image.
    room = scaled - size
    offset = tf.sign(room) * tf.floor(draws[1:3] * (tf.abs(room) + 1.0))
    image, label, inside = _sample(
        image, source.load_label(example['index']), scale, offset,
        (size, size))
    image = tf.where(inside[:, :, tf.newaxis], image, mean)
    label = tf.where(inside, label, tf.constant(IGNORED, tf.uint8))
    mirrored = draws[3] < settings.flip_prob
    return {'image': _flip_where(mirrored, image),
            'label': _flip_where(mirrored, label),
            'index': tf.cast(example['index'], tf.int32)}

  examples = _shuffled_examples(
      source, settings.batch_size, start_step, total_steps, seed, index,
      process_index, process_count)
  return _batch(
      parallel_map(examples, make), settings.batch_size // process_count)


def create_segmentation_eval_dataset(
    source: DenseSource, *, batch_size: int, mean: Iterable[float],
    index: np.ndarray | None = None, process_index: int = 0,
    process_count: int = 1) -> tf.data.Dataset:
  """Whole images as they are, once each and in order, padded to one size.

  Args:
    source: with label maps.
    batch_size: B, of each process; the last are filled up with ignored pixels.
    mean: the colour around images, in [0, 1].
    index: int[M], the examples to measure; None: all.
    process_index: of this process.
    process_count: that share the examples.

  Returns:
    A dataset of batches of this process, as many in every process: `image`
    f32[B, H, W, 3], `label` uint8[B, H, W], for H and W above all heights and
    widths of the source.
  """
  index = np.arange(source.num_examples) if index is None else index
  height, width = (
      -(-(int(size) - 1) // _SIZE_STEP) * _SIZE_STEP + 1
      for size in source.sizes.max(axis=0))
  mean = tf.constant(tuple(mean), tf.float32)

  def make(example: _Batch) -> _Batch:
    image = tf.cast(_decode(source, example['index']), tf.float32) / 255.0
    label = source.load_label(example['index'])
    label = tf.where(
        example['mask'], label, tf.constant(IGNORED, tf.uint8))
    # Padding is of zeros: so they have to mean the colour, and `IGNORED`.
    image = tf.image.pad_to_bounding_box(image - mean, 0, 0, height, width)
    label = tf.image.pad_to_bounding_box(
        (label - IGNORED)[:, :, tf.newaxis], 0, 0, height, width)
    return {'image': image + mean, 'label': label[:, :, 0] + IGNORED}

  examples = _filled_examples(index, batch_size, process_index, process_count)
  return _batch(parallel_map(examples, make), batch_size)


def create_depth_train_dataset(
    source: DenseSource, settings: ml_collections.ConfigDict, *,
    total_steps: int, seed: int, start_step: int = 0,
    index: np.ndarray | None = None, process_index: int = 0,
    process_count: int = 1) -> tf.data.Dataset:
  """Scale, centre crop, then random flip and colours: appendix D.6.

  Args:
    source: with depth maps.
    settings: `config.depth`.
    total_steps: of the run.
    seed: of order, flips and colours.
    start_step: first batch; nothing is skipped through.
    index: int[M], the examples to learn from; None: all.
    process_index: of this process.
    process_count: divides the batch size.

  Returns:
    A dataset of batches of this process: `image` f32[b, H, W, 3] in [0, 1],
    `depth` f32[b, H, W] in metres, 0 where not measured, and `index` int32[b].
  """
  change_colors = _color_changer(ml_collections.FrozenConfigDict(settings))

  def change(batch: _Batch) -> _Batch:
    draws = batch.pop('draws')
    mirrored = draws[:, 0] < settings.flip_prob
    return batch | {
        'image': change_colors(
            _flip_where(mirrored, batch['image']), draws[:, 1:5]),
        'depth': _flip_where(mirrored, batch['depth'])}

  def make(example: _Batch) -> _Batch:
    made = _center_crop(source, example['index'], settings)
    return made | {
        'index': tf.cast(example['index'], tf.int32),
        'draws': randomness.uniform_draws(
            example['position'], 1, 5, seed=seed, stream=_DEPTH_STREAM)[0]}

  examples = _shuffled_examples(
      source, settings.batch_size, start_step, total_steps, seed, index,
      process_index, process_count)
  batches = parallel_map(examples, make).batch(
      settings.batch_size // process_count, drop_remainder=True)
  return prefetch_in_order(parallel_map(batches, change, BATCHES))


def create_depth_eval_dataset(
    source: DenseSource, settings: ml_collections.ConfigDict, *,
    batch_size: int, index: np.ndarray | None = None, process_index: int = 0,
    process_count: int = 1) -> tf.data.Dataset:
  """Scale and centre crop, once each and in order.

  Args:
    source: with depth maps.
    settings: `config.depth`.
    batch_size: B, of each process; the last are filled up with pixels not
      measured.
    index: int[M], the examples to measure; None: all.
    process_index: of this process.
    process_count: that share the examples.

  Returns:
    A dataset of batches of this process, as many in every process: `image`
    f32[B, H, W, 3] and `depth` f32[B, H, W].
  """
  def make(example: _Batch) -> _Batch:
    made = _center_crop(source, example['index'], settings)
    made['depth'] = tf.where(example['mask'], made['depth'], 0.0)
    return made

  index = np.arange(source.num_examples) if index is None else index
  examples = _filled_examples(index, batch_size, process_index, process_count)
  return _batch(parallel_map(examples, make), batch_size)


def _decode(source: DenseSource, index: tf.Tensor) -> tf.Tensor:
  """uint8 [h, w, 3]."""
  return decoding.decode(source.load(index)['image'], source.max_image_pixels)


def _center_crop(
    source: DenseSource, index: tf.Tensor,
    settings: ml_collections.ConfigDict) -> _Batch:
  size = (settings.crop_height, settings.crop_width)
  image = _decode(source, index)
  scaled = tf.round(
      tf.cast(tf.shape(image)[:2], tf.float32) * settings.scale)
  offset = tf.floor((scaled - tf.constant(size, tf.float32)) / 2.0)
  image, depth, _ = _sample(
      image, source.load_depth(index), tf.constant(settings.scale), offset,
      size)
  return {'image': image, 'depth': depth}


def _sample(
    image: tf.Tensor, values: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor,
    size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """A window of a scaled image, and of its map.

  The image is interpolated, with antialiasing where it shrinks; of the map
  the nearest value is taken, for there is nothing between two classes. Only
  the window is computed.

  Args:
    image: uint8 [h, w, 3].
    values: [h, w], of any type.
    scale: float32 scalar.
    offset: float32 [2], of the window in the scaled image; may be negative.
    size: (H, W) of the window.

  Returns:
    float32 [H, W, 3] in [0, 1], [H, W], and bool [H, W]: whether a pixel lies
    within the image.
  """
  window = tf.raw_ops.ScaleAndTranslate(
      images=image[tf.newaxis], size=size, scale=tf.stack([scale, scale]),
      translation=-offset, kernel_type='triangle', antialias=True)[0]
  window = tf.ensure_shape(window, (*size, 3))
  nearest, inside = [], []
  for axis in range(2):
    count = tf.shape(values)[axis]
    pixels = tf.range(size[axis], dtype=tf.float32)
    source = tf.cast(
        tf.floor((pixels + offset[axis] + 0.5) / scale), tf.int32)
    inside.append((source >= 0) & (source < count))
    nearest.append(tf.clip_by_value(source, 0, count - 1))
  values = tf.gather(tf.gather(values, nearest[0]), nearest[1], axis=1)
  inside = inside[0][:, tf.newaxis] & inside[1]
  return tf.clip_by_value(window / 255.0, 0.0, 1.0), values, inside


def _flip_where(mirrored: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
  """Mirrors the columns of [..., H, W] or [..., H, W, 3] where told."""
  columns = mirrored.shape.rank + 1
  mask = tf.reshape(
      mirrored, tf.concat([
          tf.shape(mirrored),
          tf.ones([x.shape.rank - mirrored.shape.rank], tf.int32)], axis=0))
  return tf.where(mask, tf.reverse(x, axis=[columns]), x)


@functools.cache
def _color_changer(
    settings: ml_collections.FrozenConfigDict) -> Callable[..., tf.Tensor]:
  """Grey, brightness, saturation, hue; clipped after each.

  Maps images f32[B, H, W, 3] and draws f32[B, 4] to images.
  """
  low, high = settings.saturation_range

  def change(image: jax.Array, draws: jax.Array) -> jax.Array:
    image = jnp.transpose(image, (2, 0, 1))
    image = lax.cond(
        draws[0] < settings.grayscale_prob, operations.to_grayscale,
        lambda x: x, image)
    signed = 2.0 * draws - 1.0
    for adjust, parameter in (
        (operations.adjust_brightness, settings.brightness * signed[1]),
        (operations.adjust_saturation, low + draws[2] * (high - low)),
        (operations.adjust_hue, settings.hue * signed[3])):
      image = operations.clip(adjust(image, parameter))
    return jnp.transpose(image, (1, 2, 0))

  return compiled.each_for_host(change)


def _shuffled_examples(
    source: DenseSource, batch_size: int, start_step: int, total_steps: int,
    seed: int, subset: np.ndarray | None, process_index: int,
    process_count: int) -> tf.data.Dataset:
  """This process's `index` and `position` in the run, both int64 scalars."""
  if batch_size % process_count:
    raise ConfigError(
        f'a batch of {batch_size} cannot be divided by {process_count} '
        'processes; choose a multiple')
  if subset is None:
    subset = np.arange(source.num_examples)
  order = randomness.example_order(
      num_examples=len(subset), batch_size=batch_size, start_step=start_step,
      total_steps=total_steps, seed=seed)
  subset = tf.constant(subset, tf.int64)
  count = batch_size // process_count
  rows = slice(process_index * count, (process_index + 1) * count)

  def cut(step: tf.Tensor, ranks: tf.Tensor) -> _Batch:
    positions = step * batch_size + tf.range(batch_size, dtype=tf.int64)
    return {'index': tf.gather(subset, ranks[rows]),
            'position': positions[rows]}

  steps = tf.data.Dataset.range(start_step, total_steps)
  return parallel_map(tf.data.Dataset.zip(steps, order), cut).unbatch()


def _filled_examples(
    index: np.ndarray, batch_size: int, process_index: int, process_count: int
) -> tf.data.Dataset:
  """This process's part of `index`, in order, cut between batches.

  `mask` is False for what fills up the batches, as many in every process.
  """
  count = -(-len(index) // (batch_size * process_count)) * batch_size
  positions = process_index * count + np.arange(count)
  index = np.asarray(index, np.int64)
  return tf.data.Dataset.from_tensor_slices({
      'index': index[positions % len(index)], 'mask': positions < len(index)})


def _batch(dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
  return prefetch_in_order(dataset.batch(batch_size, drop_remainder=True))

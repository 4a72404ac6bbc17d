"""Examples of TensorFlow Datasets, in memory or by random access."""

from collections.abc import Callable
import difflib
import re
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from byol_jax.config import ConfigError
from byol_jax.data import download
from byol_jax.data import records
from byol_jax.data.examples import EncodedSource
from byol_jax.data.examples import InMemorySource
from byol_jax.data.examples import Source
from byol_jax.data.parallel import without_autotuner

_DECODING_BATCH = 256

# TFDS logs what it does, line by line, where only errors matter to a user.
logging.get_absl_logger().addFilter(
    lambda record: (record.levelno >= logging.converter.STANDARD_ERROR
                    or 'tensorflow_datasets' not in record.pathname))


def create_tfds_source(
    name: str, split: str, *, data_dir: str, cache_bytes: int,
    max_pixels: int) -> Source:
  """Opens a TFDS image dataset, downloading it if need be.

  Images are the feature `image`, or else the only one that is an image;
  labels likewise, if there are any. A sequence of labels, named `labels`, makes
  examples of several classes; with `labels_no_difficult` beside it, as in VOC,
  the others do not count.

  Args:
    name: NAME[/CONFIG][:VERSION] or NAME[/CONFIG][/VERSION].
    split: a split of it, slices such as 'train[:10%]' included.
    data_dir: TFDS's directory; '' is its default.
    cache_bytes: decoded images of one size that fit are held in memory.
    max_pixels: of an image; a larger one counts as one that cannot be read.

  Returns:
    The source.

  Raises:
    ConfigError: no such dataset or split, not prepared and not to be had, or
      without images.
  """
  # As TFDS wants a version: after a colon.
  name = re.sub(r'/(\d+(\.(\d+|\*))+)$', r':\1', name)
  builder = _prepared_builder(name, data_dir)
  try:
    split_info = builder.info.splits[split]
    num_examples = split_info.num_examples
  except (KeyError, ValueError, AssertionError) as error:
    raise ConfigError(
        f'tfds:{name} has no split {split!r}; its splits are '
        f'{sorted(builder.info.splits)}') from error
  if not num_examples:
    raise ConfigError(f'split {split!r} of tfds:{name} is empty')
  image_key = _only_feature(builder, tfds.features.Image, 'image')
  if image_key is None:
    raise ConfigError(
        f'tfds:{name} has no image feature; its features are '
        f'{sorted(builder.info.features)}')
  label_key = _only_feature(builder, tfds.features.ClassLabel, 'label')
  label = builder.info.features[label_key] if label_key else None
  is_multi_label = label is None and _holds_label_sequences(builder)
  if is_multi_label:
    label = builder.info.features['labels'].feature
  common = dict(
      name=f'tfds:{name} ({split})', num_examples=num_examples,
      num_classes=label.num_classes if label else None,
      is_multi_label=is_multi_label,
      read_names=_make_read_names(builder, split),
      class_names=tuple(label.names) if label and label.names else None)
  limits = dict(max_image_pixels=max_pixels)
  if is_multi_label:
    return _encoded_multi_label(builder, split, image_key, common | limits)
  shape = builder.info.features[image_key].shape
  if None not in shape and num_examples * np.prod(
      shape[:2], dtype=np.int64) * 3 <= cache_bytes:
    try:
      return _in_memory(builder, split, image_key, label_key, common)
    except tf.errors.OpError as error:
      logging.warning(
          '%s has an example that cannot be read (%s); reading one by one.',
          common['name'], ' '.join(error.message.split())[:200])
  return _encoded(builder, split, image_key, label_key, common | limits)


def _prepared_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
  builder = _builder(name, data_dir)
  if builder.is_prepared():
    return builder
  root = builder.data_dir_root
  if builder.name == 'cifar10':
    from byol_jax.data import cifar10  # pylint: disable=g-import-not-at-top
    cifar10.ensure_cifar10(str(root))
  else:
    logging.info('%s is not in %s; letting TFDS download it.', name, root)
    try:
      download.download_and_prepare(name, str(root))
    except download.DownloadError as error:
      raise ConfigError(
          f'tfds:{name} is not prepared in {root}, and TFDS could not '
          f'download it: {error}; prepare it where there is a connection and '
          'set config.data_dir') from error
  return _builder(name, data_dir)


def _builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
  try:
    return tfds.builder(name, data_dir=data_dir or None)
  except tfds.core.DatasetNotFoundError as error:
    known = tfds.list_builders()
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    raise ConfigError(
        f'TFDS knows no dataset {name!r}; '
        + (f'close to it are {close}' if close else
           f'it knows {len(known)}, such as cifar10, imagenette and '
           'imagenet2012')) from error
  except (ValueError, AssertionError) as error:  # config or version
    text = re.sub(r'\s+', ' ', str(error))
    raise ConfigError(f'tfds:{name}: {text[:300]}') from error


def _only_feature(
    builder: tfds.core.DatasetBuilder, kind: type, preferred: str
) -> str | None:
  """The key of the feature of that kind: the preferred, or the only one."""
  features = builder.info.features
  keys = [key for key in features if isinstance(features[key], kind)]
  if preferred in keys:
    return preferred
  return keys[0] if len(keys) == 1 else None


def _holds_label_sequences(builder: tfds.core.DatasetBuilder) -> bool:
  features = builder.info.features
  return (
      'labels' in features
      and isinstance(features['labels'], tfds.features.Sequence)
      and isinstance(features['labels'].feature, tfds.features.ClassLabel))


def _make_read_names(
    builder: tfds.core.DatasetBuilder, split: str
) -> Callable[[], list[str]] | None:
  """Reads the feature that names each example's file, if there is one."""
  features = builder.info.features
  key = next((k for k in ('file_name', 'image/filename', 'filename')
              if k in features), None)
  if key is None:
    return None

  def read_names() -> list[str]:
    dataset = builder.as_dataset(
        split=split, shuffle_files=False,
        decoders=tfds.decode.PartialDecoding({key: True}),
        read_config=tfds.ReadConfig(interleave_cycle_length=1))
    return [example[key].decode() for example in without_autotuner(
        dataset).as_numpy_iterator()]

  return read_names


def _in_memory(
    builder: tfds.core.DatasetBuilder, split: str, image_key: str,
    label_key: str | None, common: dict[str, Any]) -> InMemorySource:
  keys = {image_key} | ({label_key} if label_key else set())
  dataset = builder.as_dataset(
      split=split, batch_size=_DECODING_BATCH, shuffle_files=False,
      decoders=tfds.decode.PartialDecoding(dict.fromkeys(keys, True)),
      read_config=tfds.ReadConfig(interleave_cycle_length=1))
  height, width, _ = builder.info.features[image_key].shape
  images = np.empty((common['num_examples'], height, width, 3), np.uint8)
  labels = np.empty(len(images), np.int32)
  start = 0
  for batch in without_autotuner(dataset).as_numpy_iterator():
    stop = start + len(batch[image_key])
    images[start:stop] = batch[image_key][..., :3]  # one channel broadcasts
    if label_key:
      labels[start:stop] = batch[label_key]
    start = stop
  return InMemorySource(
      images=images, labels=labels if label_key else None, **common)


def _encoded(
    builder: tfds.core.DatasetBuilder, split: str, image_key: str,
    label_key: str | None, common: dict[str, Any]) -> EncodedSource:
  keys = {image_key} | ({label_key} if label_key else set())
  features = tfds.decode.PartialDecoding(
      dict.fromkeys(keys, True)).extract_features(builder.info.features)
  skip = {image_key: tfds.decode.SkipDecoding()}
  found = _record_index(builder, split)
  read = found.make_read_fn()

  def load(index: tf.Tensor) -> dict[str, tf.Tensor]:
    example = features.deserialize_example(read(index), decoders=skip)
    loaded = {'image': example[image_key]}
    if label_key:
      loaded['label'] = tf.cast(example[label_key], tf.int32)
    return loaded

  return EncodedSource(load=load, place_of=found.place_of, **common)


def _encoded_multi_label(
    builder: tfds.core.DatasetBuilder, split: str, image_key: str,
    common: dict[str, Any]) -> EncodedSource:
  keys = {image_key, 'labels'} | (
      {'labels_no_difficult'} & set(builder.info.features))
  features = tfds.decode.PartialDecoding(
      dict.fromkeys(keys, True)).extract_features(builder.info.features)
  skip = {image_key: tfds.decode.SkipDecoding()}
  found = _record_index(builder, split)
  read = found.make_read_fn()

  def is_there(labels: tf.Tensor) -> tf.Tensor:
    rows = tf.one_hot(labels, common['num_classes'], on_value=True,
                      off_value=False)
    return tf.reduce_any(rows, axis=0)

  def load(index: tf.Tensor) -> dict[str, tf.Tensor]:
    example = features.deserialize_example(read(index), decoders=skip)
    named = is_there(example['labels'])
    sure = is_there(example.get('labels_no_difficult', example['labels']))
    return {
        'image': example[image_key],
        'label': tf.cast(sure, tf.int32) - tf.cast(named & ~sure, tf.int32)}

  return EncodedSource(load=load, place_of=found.place_of, **common)


def _record_index(
    builder: tfds.core.DatasetBuilder, split: str) -> records.RecordIndex:
  """Where the serialized examples of a split, or a slice of one, are."""
  file_format = builder.info.file_format
  if file_format != tfds.core.FileFormat.TFRECORD:
    raise ConfigError(
        f'{builder.info.full_name} is prepared as {file_format.value}; '
        'expected tfrecord (`tfds convert_format` converts it)')
  instructions = builder.info.splits[split].file_instructions
  found = records.index_records(
      [str(i.filename) for i in instructions],
      [i.examples_in_shard for i in instructions])
  return records.concatenate([
      index[i.skip:i.skip + i.take]
      for i, index in zip(instructions, found, strict=True)])

"""TFRecord files of tf.train.Example, by random access.

`tfrecord:PATTERN` finds the files of a split in one of three ways:

* PATTERN holds `{split}`, which the split's name takes the place of.
* PATTERN is a folder: the files FOLDER/SPLIT/*, or else those whose name is
  the split's up to a `-`, `_` or `.` (`train-00000-of-01024`).
* PATTERN is any other path or glob: its files are the training split, and
  there are no others.

An example's image is its feature `image/encoded` or `image`: a JPEG, PNG, BMP,
GIF or WebP file. Its label is `image/class/label` or `label`, one whole number
as it stands: ImageNet's, from 1 to 1000, make 1001 classes of which number 0
is never met. A file `classes.txt` beside the files, or in FOLDER, names the
classes from 0 on, one a line; without it all training records are read once to
count them, which is remembered. Records without labels can be pretrained on.

Files that `byol_jax.pack` made are opened by their index, without a look at
them, and give what the folder gave that they were made of.
"""

from collections.abc import Sequence
import io
import os
import re

from absl import logging
import numpy as np
import tensorflow as tf

from byol_jax.config import ConfigError
from byol_jax.data import cache
from byol_jax.data import examples
from byol_jax.data import pack_index
from byol_jax.data import photo
from byol_jax.data import records
from byol_jax.data import remote
from byol_jax.data.examples import EncodedSource
from byol_jax.data.examples import InMemorySource
from byol_jax.data.examples import Source
from byol_jax.data.parallel import parallel_map
from byol_jax.data.parallel import prefetch_in_order

_IMAGE_KEYS = ('image/encoded', 'image')
_LABEL_KEYS = ('image/class/label', 'label')
_NAME_KEYS = ('image/filename', 'file_name', 'filename')
_SPLIT_ENDS = '-_.'
_SHARD = re.compile(r'(\d+)-of-(\d+)')
# Records that are looked at to learn what features there are.
_FIRST_RECORDS = 10
_MAX_CLASSES = 1_000_000  # above, labels are more likely identifiers


def create_tfrecord_source(
    pattern: str, split: str, *, train_split: str, cache_bytes: int,
    max_pixels: int) -> Source:
  """Opens the TFRecord files of a split; see the module's docstring.

  Args:
    pattern: a glob, perhaps with `{split}`, or a folder; of any file system
      that TensorFlow knows.
    split: whose files to open.
    train_split: whose labels say how many classes there are.
    cache_bytes: decoded images of one size that fit are held in memory, if
      they were packed.
    max_pixels: of an image; a larger one counts as one that cannot be read.

  Returns:
    The source; its examples are in the order of the files' names.

  Raises:
    ConfigError: no such files, or without images.
  """
  pattern = os.path.expanduser(pattern)
  remote.check_scheme(pattern, f'tfrecord:{pattern}')
  paths = _find(pattern, split, train_split)
  packed = pack_index.find(paths)
  index = packed.locate(paths) if packed else _scan(paths)
  name = f'tfrecord:{pattern} ({split})'
  features = _first_features(index, name)
  image_key = _key(features, _IMAGE_KEYS, 'bytes_list')
  if image_key is None:
    raise ConfigError(
        f'{name} has no image feature; expected {" or ".join(_IMAGE_KEYS)}, '
        f'found {sorted(features)[:10]}')
  label_key = _key(features, _LABEL_KEYS, 'int64_list')
  name_key = _key(features, _NAME_KEYS, 'bytes_list')
  num_classes, class_names = None, None
  if label_key is not None:
    class_names = _read_class_names(os.path.dirname(paths[0]), pattern)
    num_classes = len(class_names) if class_names else _count_classes(
        index if split == train_split else _train_index(
            pattern, train_split, index), label_key, name)
  logging.info(
      '%s: %d images in %d files, %s.', name, len(index), len(paths),
      'no labels' if num_classes is None else f'{num_classes} classes')
  common = dict(
      name=name, num_examples=len(index), num_classes=num_classes,
      class_names=class_names, place_of=index.place_of,
      read_names=packed.read_names if packed else name_key and (
          lambda: _read_names(index, name_key)),
      **examples.fingerprints((path, *remote.state(path)) for path in paths))
  if packed and examples.fit_in_memory(packed.size, cache_bytes):
    images = photo.read_all(map(io.BytesIO, _read_feature(
        index, image_key, tf.constant('')).as_numpy_iterator()), max_pixels)
    if images is not None:
      return InMemorySource(
          images=images, labels=packed.label if num_classes else None,
          **common)
  return EncodedSource(
      max_image_pixels=max_pixels,
      load=_make_load_fn(index, image_key, label_key, num_classes), **common)


def _find(pattern: str, split: str, train_split: str) -> list[str]:
  """The split's files, sorted by name."""
  try:
    paths = _candidates(pattern, split, train_split)
  except tf.errors.NotFoundError:
    paths = []
  except UnicodeDecodeError as error:
    raise ConfigError(
        f'tfrecord:{pattern} finds a file whose name TensorFlow cannot read, '
        f'for it is not UTF-8 ({error.object!r}): rename it'
    ) from error
  except tf.errors.OpError as error:
    message = ' '.join(error.message.split())
    raise ConfigError(
        f'tfrecord:{pattern} cannot be reached: {message[:200]}') from error
  paths = sorted(path for path in paths
                 if not os.path.basename(path).startswith(('.', '_'))
                 and os.path.basename(path) != 'classes.txt'
                 and not tf.io.gfile.isdir(path))
  if not paths:
    raise ConfigError(
        f'tfrecord:{pattern} has no files of the split {split!r}; expected '
        'them to match the pattern, with {split} in it where there are '
        "several splits, or a folder of files like train-00000-of-01024; set "
        "config.test_split='' if there is none")
  shards = [match for path in paths
            if (match := _SHARD.search(os.path.basename(path)))]
  if len(shards) == len(paths):
    found = {int(shard[1]) for shard in shards}
    missing = set(range(int(shards[0][2]))) - found
    if missing:
      raise ConfigError(
          f'tfrecord:{pattern} ({split}) lacks {len(missing)} of '
          f'{shards[0][2]} files, such as number {min(missing)}')
  return paths


def _candidates(pattern: str, split: str, train_split: str) -> list[str]:
  if '{split}' in pattern:
    return tf.io.gfile.glob(pattern.replace('{split}', split))
  if tf.io.gfile.isdir(pattern):
    names = [name.rstrip('/') for name in tf.io.gfile.listdir(pattern)]
    inner = os.path.join(pattern, split)
    if split in names and tf.io.gfile.isdir(inner):
      return [os.path.join(inner, name) for name in tf.io.gfile.listdir(inner)]
    return [os.path.join(pattern, name) for name in names
            if name.startswith(tuple(split + end for end in _SPLIT_ENDS))]
  return tf.io.gfile.glob(pattern) if split == train_split else []


def _scan(paths: list[str]) -> records.RecordIndex:
  return records.concatenate(records.index_records(paths))


def _train_index(
    pattern: str, train_split: str, own: records.RecordIndex
) -> records.RecordIndex:
  """Of the records whose labels count; of a split alone, its own."""
  try:
    return _scan(_find(pattern, train_split, train_split))
  except ConfigError:
    return own


def _first_features(
    index: records.RecordIndex, name: str) -> dict[str, tf.train.Feature]:
  """Of the first record that can be read."""
  read = index.make_read_fn()
  for number in range(min(_FIRST_RECORDS, len(index))):
    try:
      record = read(tf.constant(number, tf.int64)).numpy()
      example = tf.train.Example.FromString(record)
    except Exception:  # pylint: disable=broad-except
      continue  # damaged; protobuf's own error is not public
    if example.features.feature:
      return dict(example.features.feature)
  raise ConfigError(
      f'{name} holds no tf.train.Example with features, as far as its first '
      f'{_FIRST_RECORDS} records say')


def _key(
    features: dict[str, tf.train.Feature], keys: Sequence[str], kind: str
) -> str | None:
  """The first of `keys` that is there, with one value of that kind."""
  return next((
      key for key in keys
      if key in features and len(getattr(features[key], kind).value) == 1),
              None)


def _read_feature(
    index: records.RecordIndex, key: str, default: tf.Tensor,
) -> tf.data.Dataset:
  """One feature of every record, in order; the default where it is missing."""
  read = index.make_read_fn()
  feature = tf.io.FixedLenFeature([], default.dtype, default)

  def parse(number: tf.Tensor) -> tf.Tensor:
    found = tf.data.Dataset.from_tensors(number).map(
        lambda number: tf.io.parse_single_example(
            read(number), {key: feature})[key]).ignore_errors()
    return found.concatenate(
        tf.data.Dataset.from_tensors(default)).take(1).get_single_element()

  return prefetch_in_order(
      parallel_map(tf.data.Dataset.range(len(index)), parse))


def _read_names(index: records.RecordIndex, key: str) -> list[str]:
  return [os.fsdecode(name) for name in _read_feature(
      index, key, tf.constant('')).as_numpy_iterator()]


def _read_class_names(*folders: str) -> tuple[str, ...] | None:
  """Of `classes.txt` in the first of the folders that has one."""
  for folder in folders:
    listed = os.path.join(folder, 'classes.txt')
    if tf.io.gfile.exists(listed):
      with tf.io.gfile.GFile(listed, 'rb') as file:
        text = file.read().decode(errors='replace')
      lines = [line.strip() for line in text.splitlines()]
      return tuple(line for line in lines if line) or None
  return None


def _count_classes(
    index: records.RecordIndex, label_key: str, name: str) -> int:
  """One more than the largest label; says where labels begin."""
  remembered = cache.cached_file('labels', (
      label_key, [(path, *remote.state(path)) for path in index.paths]), '.npy')
  try:
    labels = np.load(remembered, allow_pickle=False)
  except (OSError, ValueError):
    logging.info(
        'Reading %d records of %s once, to count their classes; a file '
        'classes.txt beside them, a name a line, spares that.', len(index),
        name)
    labels = np.unique(np.fromiter(
        _read_feature(index, label_key, tf.constant(-1, tf.int64))
        .as_numpy_iterator(), np.int64))
    buffer = io.BytesIO()
    np.save(buffer, labels)
    cache.remember(remembered, buffer.getvalue())
  known = labels[labels >= 0]
  if not len(known) or known[-1] >= _MAX_CLASSES:
    raise ConfigError(
        f'{name}: the largest {label_key} is {labels[-1]}; expected classes '
        f'counted from 0, fewer than {_MAX_CLASSES}')
  if known[0]:
    logging.info(
        '%s: labels go from %d to %d; that makes %d classes, of which those '
        'below %d are never met.', name, known[0], known[-1], known[-1] + 1,
        known[0])
  return int(known[-1]) + 1


def _make_load_fn(
    index: records.RecordIndex, image_key: str, label_key: str | None,
    num_classes: int | None):
  read = index.make_read_fn()
  features = {image_key: tf.io.FixedLenFeature([], tf.string)}
  if label_key is not None:
    features[label_key] = tf.io.FixedLenFeature([], tf.int64)

  def load(number: tf.Tensor) -> dict[str, tf.Tensor]:
    example = tf.io.parse_single_example(read(number), features)
    loaded = {'image': example[image_key]}
    if label_key is not None:
      label = example[label_key]
      with tf.control_dependencies([tf.debugging.Assert(
          (label >= 0) & (label < num_classes), ['no such label', label])]):
        loaded['label'] = tf.cast(label, tf.int32)
    return loaded

  return load

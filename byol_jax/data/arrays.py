"""Sources that are arrays: an .npz file, or deterministic random images."""

import os
import zipfile
import zlib

import numpy as np
import tensorflow as tf

from byol_jax.config import ConfigError
from byol_jax.data import remote
from byol_jax.data.examples import fingerprints
from byol_jax.data.examples import InMemorySource

_MAX_CLASSES = 1_000_000  # above, labels are more likely identifiers
_FAKE_SPLITS = ('train', 'validation', 'test')
_FAKE_EXAMPLES = 1024
_FAKE_CLASSES = 10
_FAKE_PATTERN_SIZE = 4  # pixels of a class's pattern, before enlarging


def create_arrays_source(path: str, split: str) -> InMemorySource:
  """Images in an .npz file.

  The file holds `image`, uint8 [N, H, W, C] with one or three channels, and
  perhaps `label`, whole numbers [N] from 0; that is the split `train`. Or it
  holds several splits: `train_image`, `train_label`, `test_image`, ... And
  perhaps `class_names`, strings. It is read without pickle. Labels [N, C] are
  of several classes at once: 1 there, 0 not there, -1 does not count.

  Args:
    path: of the file.
    split: of the file.

  Returns:
    The source.

  Raises:
    ConfigError: no such file or split, or not as described.
  """
  path = os.path.expanduser(path)
  remote.check_exists(path, f'arrays:{path}', 'file')
  state = remote.state(path)
  try:
    with tf.io.gfile.GFile(path, 'rb') as file, np.load(
        file, allow_pickle=False) as archive:
      splits = _splits(archive.files)
      if split not in splits:
        raise ConfigError(
            f'arrays:{path} has no split {split!r}; its splits are '
            f'{sorted(splits)} (keys {sorted(archive.files)}, expected '
            f"'image', or '{split}_image')")
      prefix = splits[split]
      images = _checked_images(archive[prefix + 'image'], path)
      labels = None
      if prefix + 'label' in archive.files:
        labels = _checked_labels(archive[prefix + 'label'], len(images), path)
      # Of the whole file, so that all splits agree.
      maxima = {key: int(_largest_class(archive[key])) for key in archive.files
                if key.endswith('label') and archive[key].size}
      names = (archive['class_names'].tolist()
               if 'class_names' in archive.files else None)
  except ConfigError:
    raise
  except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
    raise ConfigError(
        f'arrays:{path} is not a readable .npz file of arrays '
        f'({error})') from error
  num_classes = None
  if labels is not None:
    num_classes = _checked_num_classes(maxima, names, path)
  return InMemorySource(
      name=f'arrays:{path} ({split})', num_examples=len(images),
      num_classes=num_classes, images=images, labels=labels,
      is_multi_label=labels is not None and labels.ndim == 2,
      **fingerprints([(path, *state)]),
      class_names=tuple(map(str, names)) if names else None)


def _largest_class(labels: np.ndarray) -> int:
  return labels.shape[1] - 1 if labels.ndim == 2 else labels.max()


def _splits(keys: list[str]) -> dict[str, str]:
  """Prefix of the keys, by split."""
  splits = {key.removesuffix('_image'): key.removesuffix('image')
            for key in keys if key.endswith('_image')}
  return splits | ({'train': ''} if 'image' in keys else {})


def _checked_images(images: np.ndarray, path: str) -> np.ndarray:
  if (images.dtype != np.uint8 or images.ndim != 4
      or images.shape[3] not in (1, 3) or not images.size):
    raise ConfigError(
        f'arrays:{path}: images are {images.dtype}{list(images.shape)}; '
        'expected uint8 [N, H, W, 1 or 3], not empty')
  if images.shape[3] == 1:
    images = np.repeat(images, 3, axis=3)
  return images


def _checked_labels(
    labels: np.ndarray, num_images: int, path: str) -> np.ndarray:
  is_multi_label = labels.ndim == 2
  if is_multi_label and labels.dtype.kind in 'iu' and labels.shape[1] and (
      len(labels) == num_images and np.isin(labels, (-1, 0, 1)).all()):
    return labels.astype(np.int32)
  if is_multi_label:
    raise ConfigError(
        f'arrays:{path}: labels are {labels.dtype}{list(labels.shape)}; '
        f'expected whole numbers [{num_images}, classes], each 1, 0 or -1')
  if (labels.shape != (num_images,) or labels.dtype.kind not in 'iu'
      or labels.min() < 0):
    raise ConfigError(
        f'arrays:{path}: labels are {labels.dtype}{list(labels.shape)}; '
        f'expected whole numbers [{num_images}], none negative')
  return labels.astype(np.int32)


def _checked_num_classes(
    maxima: dict[str, int], names: list[str] | None, path: str) -> int:
  widest = max(maxima, key=maxima.get)
  largest = maxima[widest]
  learned = maxima.get('train_label', largest)
  if names is None and learned < largest:
    raise ConfigError(
        f'arrays:{path}: {widest} goes up to {largest} and train_label to '
        f'{learned}; expected no class that train lacks, or class_names, which '
        'say how many there are')
  if largest >= _MAX_CLASSES:
    raise ConfigError(
        f'arrays:{path}: the largest label is {largest}; expected classes '
        f'counted from 0, fewer than {_MAX_CLASSES}')
  if names is not None and len(names) <= largest:
    raise ConfigError(
        f'arrays:{path}: class_names has {len(names)} names; expected at '
        f'least {largest + 1}, as the largest label is {largest}')
  return len(names or range(largest + 1))


def create_fake_source(
    count: str, split: str, image_size: int) -> InMemorySource:
  """Random images of ten classes, the same ones every time.

  Each class has a coarse colour pattern, which noise half hides, so that a
  test can see whether something was learnt.

  Args:
    count: how many examples; '' means 1024.
    split: one of train, validation and test, which differ in the noise.
    image_size: pixels of a side.

  Returns:
    The source.

  Raises:
    ConfigError: the count is not a positive whole number, or there is no such
      split.
  """
  if count and not (count.isdecimal() and int(count)):
    raise ConfigError(
        f'data is fake:{count}; expected a number of images after the colon')
  if split not in _FAKE_SPLITS:
    raise ConfigError(
        f'fake data has no split {split!r}; its splits are '
        f'{list(_FAKE_SPLITS)}')
  num_examples = int(count) if count else _FAKE_EXAMPLES
  rng = np.random.default_rng(zlib.crc32(split.encode()))
  labels = rng.integers(0, _FAKE_CLASSES, num_examples, np.int32)
  patterns = np.random.default_rng(0).integers(
      0, 128, (_FAKE_CLASSES, _FAKE_PATTERN_SIZE, _FAKE_PATTERN_SIZE, 3),
      np.uint8)
  # Nearest neighbour, to any size.
  pixels = np.arange(image_size) * _FAKE_PATTERN_SIZE // image_size
  patterns = patterns[:, pixels][:, :, pixels]
  images = rng.integers(
      0, 128, (num_examples, image_size, image_size, 3), np.uint8)
  images += patterns[labels]
  return InMemorySource(
      name=f'fake ({split})', num_examples=num_examples,
      num_classes=_FAKE_CLASSES, images=images, labels=labels,
      class_names=tuple(f'pattern {i}' for i in range(_FAKE_CLASSES)))

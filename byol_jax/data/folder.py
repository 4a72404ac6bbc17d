"""Folders of images, labelled or not.

`folder:PATH` is read in one of two ways, and a log line says which:

* Where PATH/SPLIT is a folder, it is that split (PATH/train and PATH/val, with
  `train_split='train'` and `test_split='val'`). If PATH/TRAIN_SPLIT holds at
  least two folders, all with images, and no images beside them, these are the
  classes, in the order of their names.
* Otherwise every image under PATH, however deep, is the training split, and
  there are no labels and no other splits.

Every file is decoded once when it is first met, so that training never meets
a bad one; what was found is remembered by path, size and time of change.
"""

import collections
import dataclasses
import os
import pathlib

from absl import logging
import numpy as np
import tensorflow as tf

from byol_jax import places
from byol_jax.config import ConfigError
from byol_jax.data import examples
from byol_jax.data import folder_index
from byol_jax.data import photo
from byol_jax.data import remote
from byol_jax.data.examples import EncodedSource
from byol_jax.data.examples import InMemorySource
from byol_jax.data.examples import Source


@dataclasses.dataclass(frozen=True)
class _Layout:
  """What a folder was understood to be."""
  root: pathlib.Path  # of the split
  class_names: tuple[str, ...] | None

  def describe(self) -> str:
    if self.class_names is None:
      return 'no labels'
    return f'{len(self.class_names)} classes, the names of its folders'


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """The good images of a split, in the order of their paths."""
  root: pathlib.Path
  files: list[folder_index.ImageFile]
  labels: np.ndarray | None  # int32 [N]
  class_names: tuple[str, ...] | None  # printable


def create_folder_source(
    path: str, split: str, *, train_split: str, cache_bytes: int,
    max_bad_share: float, max_pixels: int) -> Source:
  """Opens a folder of images; see the module's docstring for its layout.

  Args:
    path: of the folder.
    split: a folder in it, or `train_split`.
    train_split: as for `read_split`.
    cache_bytes: decoded images of one size that fit are held in memory.
    max_bad_share: as for `read_split`.
    max_pixels: as for `read_split`.

  Returns:
    The source; its examples are in the order of their paths.

  Raises:
    ConfigError: as `read_split`.
  """
  found = read_split(path, split, train_split=train_split,
                     max_bad_share=max_bad_share, max_pixels=max_pixels)
  root, files, labels = found.root, found.files, found.labels
  common = dict(
      name=f'folder:{path} ({split})', num_examples=len(files),
      num_classes=len(found.class_names) if found.class_names else None,
      class_names=found.class_names,
      read_names=lambda: [file.name for file in files],
      **examples.fingerprints(file.state for file in files))
  paths = [os.path.join(root, file.name) for file in files]
  sizes = np.array([(file.height, file.width) for file in files])
  if examples.fit_in_memory(sizes, cache_bytes):
    images = photo.read_all(paths, max_pixels)
    if images is not None:
      return InMemorySource(images=images, labels=labels, **common)
  return EncodedSource(
      load=_make_load_fn(
          folder_index.readable_paths(root, files, max_pixels), labels),
      max_image_pixels=max_pixels,
      place_of=lambda index: folder_index.printable(paths[index]), **common)


def read_split(
    path: str, split: str, *, train_split: str, max_bad_share: float,
    max_pixels: int) -> Split:
  """Examines a split of a folder.

  Files that cannot be decoded are named in a log file and left out. Links are
  followed to files within the folder only, hidden files are passed over.

  Args:
    path: of the folder.
    split: a folder in it, or `train_split`.
    train_split: the split whose folders are the classes, and what a folder
      without splits is.
    max_bad_share: of the image files that may be bad.
    max_pixels: of an image; larger ones are bad.

  Returns:
    What it holds: at least one image.

  Raises:
    ConfigError: no such folder or split, no images in it, or too many bad
      ones.
  """
  remote.check_local(path, f'folder:{path}')
  places.check_folder(path, f'folder:{path}')
  layout = _understand(pathlib.Path(path).expanduser(), split, train_split)
  found = folder_index.examine_folder(layout.root, max_pixels)
  _check_bad(found, layout.root, max_bad_share)
  labels = _labels(found.good, layout)
  logging.info('folder:%s (%s): %d images, %s.', path, split, len(found.good),
               layout.describe())
  return Split(layout.root, found.good, labels, layout.class_names and tuple(
      map(folder_index.printable, layout.class_names)))


def list_splits(path: str, train_split: str) -> list[str]:
  """The splits of a folder: what `read_split` can open, training first."""
  root = pathlib.Path(path).expanduser()
  if not (root / train_split).is_dir():
    return [train_split]
  others = sorted(
      entry.name for entry in root.iterdir()
      if entry.is_dir() and not entry.name.startswith('.')
      and entry.name != train_split and folder_index.holds_images(entry))
  return [train_split, *others]


def _understand(path: pathlib.Path, split: str, train_split: str) -> _Layout:
  check_split(path, split)
  if (path / split).is_dir():
    train = path / train_split
    return _Layout(path / split, _class_names(
        train if train.is_dir() else path / split))
  if split == train_split:
    return _Layout(path, None)
  raise ConfigError(
      f'folder:{path} has no split {split!r}: {path / split} is no folder; '
      "make it, or set config.test_split='' if there is none")


def check_split(path: pathlib.Path, split: str) -> None:
  """Raises ConfigError for a split that leads out of its dataset's folder."""
  if folder_index.leads_out(path, str(path / split)):
    raise ConfigError(
        f'{path / split} leads out of {path}, by a link or `..`; name the '
        'folder that it leads to in config.data, or copy it')


def _class_names(train: pathlib.Path) -> tuple[str, ...] | None:
  entries = [e for e in train.iterdir() if not e.name.startswith('.')]
  folders = sorted(
      e.name for e in entries if e.is_dir() and not e.is_symlink())
  beside = any(folder_index.is_image_name(e.name) for e in entries
               if e.is_file())
  if beside or len(folders) < 2:
    return None
  labelled = all(folder_index.holds_images(train / f) for f in folders)
  return tuple(folders) if labelled else None


def _labels(
    files: list[folder_index.ImageFile], layout: _Layout) -> np.ndarray | None:
  if layout.class_names is None:
    return None
  numbers = {name: i for i, name in enumerate(layout.class_names)}
  names = [file.name.partition('/')[0] for file in files]
  unknown = sorted(set(names) - set(numbers))
  if unknown:
    raise ConfigError(
        f'{layout.root / unknown[0]} is not in a class of the training '
        f'split; its classes are {list(numbers)[:10]}')
  return np.array([numbers[name] for name in names], np.int32)


def _check_bad(
    found: folder_index.Examined, root: pathlib.Path,
    max_bad_share: float) -> None:
  """Says which files are bad, and stops if they are too many."""
  count = len(found.bad) + len(found.good)
  if not count:
    raise ConfigError(
        f'{root} holds no images; expected files named '
        f'{", ".join(sorted(folder_index.SUFFIXES))}')
  if not found.bad:
    return
  reasons = collections.Counter(file.problem for file in found.bad)
  log = folder_index.write_bad_list(root, found.bad)
  what = (f'{len(found.bad)} of {count} image files in {root} are bad ('
          + ', '.join(f'{n} {reason}' for reason, n in reasons.most_common(3))
          + f'; such as {folder_index.printable(found.bad[0].name)}; '
          f'all are named in {log})')
  if len(found.bad) > max_bad_share * count:
    raise ConfigError(
        f'{what}, more than max_bad_image_share={max_bad_share:g}; mend or '
        'remove them, or raise that share')
  if not found.good:
    raise ConfigError(what)
  logging.warning('%s and skipped.', what)


def _make_load_fn(paths: list[str], labels: np.ndarray | None):
  paths = tf.constant([os.fsencode(path) for path in paths])
  labels = None if labels is None else tf.constant(labels)

  def load(index: tf.Tensor) -> dict[str, tf.Tensor]:
    loaded = {'image': tf.io.read_file(paths[index])}
    if labels is not None:
      loaded['label'] = labels[index]
    return loaded

  return load

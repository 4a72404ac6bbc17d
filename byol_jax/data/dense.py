"""Images with a map that says something of every pixel: classes, or depth.

`config.data` names them:
  voc:PATH         the layout of PASCAL VOC: JPEGImages/, SegmentationClass/
                   and ImageSets/Segmentation/SPLIT.txt
  cityscapes:PATH  leftImg8bit/SPLIT/CITY/ and gtFine/SPLIT/CITY/, the 19
                   classes that Cityscapes trains on
  pairs:PATH       SPLIT/images/ and beside it SPLIT/labels/ (PNGs), or
                   SPLIT/depth/ (see `dense_maps`), or both, under the same
                   names. PATH/classes.txt may name the classes, one a line;
                   without it they are counted in the train split.

Every pair is checked when it is opened, once: both files decode, they are of
one size, and the map holds nothing unknown. The images alone can be pretrained
on, like any other source.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import os
import pathlib

from absl import logging
import numpy as np
import tensorflow as tf

from byol_jax import places
from byol_jax.config import ConfigError
from byol_jax.data import dense_maps
from byol_jax.data import examples
from byol_jax.data import folder
from byol_jax.data import folder_index
from byol_jax.data import remote
from byol_jax.data.dense_maps import IGNORED
from byol_jax.data.examples import EncodedSource

VOC_CLASSES = (
    'background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus',
    'car', 'cat', 'chair', 'cow', 'dining table', 'dog', 'horse', 'motorbike',
    'person', 'potted plant', 'sheep', 'sofa', 'train', 'tv')
# By name, the number of each class in the files *_labelIds.png.
CITYSCAPES_CLASSES = {
    'road': 7, 'sidewalk': 8, 'building': 11, 'wall': 12, 'fence': 13,
    'pole': 17, 'traffic light': 19, 'traffic sign': 20, 'vegetation': 21,
    'terrain': 22, 'sky': 23, 'person': 24, 'rider': 25, 'car': 26,
    'truck': 27, 'bus': 28, 'train': 31, 'motorcycle': 32, 'bicycle': 33}
_CITYSCAPES_LAST_ID = 33

_LoadFn = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DenseSource(EncodedSource):
  """Images, encoded, and a map of each.

  Attributes:
    sizes: int32 [N, 2], height and width of each image and its map.
    map_classes: names of the classes in the label maps.
    is_labelled: bool [N], whether any pixel of the image's label map counts;
      None where there are none.
    load_label: in the graph, an index to the label map uint8 [h, w]: classes,
      or `IGNORED`; None where there are none.
    load_depth: in the graph, an index to the depths float32 [h, w] in metres,
      0 where not measured; None where there are none.
  """
  sizes: np.ndarray
  map_classes: tuple[str, ...] = ()
  is_labelled: np.ndarray | None = None
  load_label: _LoadFn | None = None
  load_depth: _LoadFn | None = None


@dataclasses.dataclass(frozen=True)
class _Files:
  """One kind of file: a folder, and the names of the examples' in it."""
  root: pathlib.Path
  names: Sequence[str]


def create_dense_source(
    kind: str, path: str, split: str, *, train_split: str, max_pixels: int,
) -> DenseSource:
  """Opens one split of a folder of pairs.

  Args:
    kind: voc, cityscapes or pairs.
    path: of the folder.
    split: as the folder calls it.
    train_split: where the classes of `pairs` are counted.
    max_pixels: of an image or a map; a larger one is refused.

  Returns:
    The source; its examples are in the order of their names.

  Raises:
    ConfigError: no such folder or split, or a pair that is none; the message
      names a file.
  """
  remote.check_local(path, f'{kind}:{path}')
  places.check_folder(path, f'{kind}:{path}')
  root = pathlib.Path(path).expanduser()
  folder.check_split(root, split)
  create = {'voc': _create_voc, 'cityscapes': _create_cityscapes}.get(kind)
  source = (create(root, split, max_pixels) if create
            else _create_pairs(root, split, train_split, max_pixels))
  logging.info('%s: %d images, %s.', source.name, source.num_examples,
               f'{len(source.map_classes)} classes' if source.map_classes
               else 'no label maps')
  return source


def _create_voc(
    root: pathlib.Path, split: str, max_pixels: int) -> DenseSource:
  lists = root / 'ImageSets' / 'Segmentation'
  path = lists / f'{split}.txt'
  if not path.is_file():
    there = sorted(p.stem for p in lists.glob('*.txt'))
    raise ConfigError(
        f'voc:{root} has no split {split!r}: there is no {path}; its splits '
        f'are {there}')
  names = sorted(path.read_text().split())
  if not names:
    raise ConfigError(f'{path} is empty, expected a name a line')
  return _create_source(
      f'voc:{root} ({split})',
      _Files(root / 'JPEGImages', [f'{name}.jpg' for name in names]),
      labels=_Files(
          root / 'SegmentationClass', [f'{name}.png' for name in names]),
      classes=VOC_CLASSES, max_pixels=max_pixels)


def _create_cityscapes(
    root: pathlib.Path, split: str, max_pixels: int) -> DenseSource:
  images, maps = root / 'leftImg8bit' / split, root / 'gtFine' / split
  suffix = '_leftImg8bit.png'
  names = sorted(p.relative_to(images).as_posix().removesuffix(suffix)
                 for p in images.glob(f'*/*{suffix}'))
  if not names:
    there = sorted(p.name for p in images.parent.glob('*') if p.is_dir())
    raise ConfigError(
        f'cityscapes:{root} has no split {split!r}: no files '
        f'{images}/CITY/*{suffix}; its splits are {there}')
  # Of the two files with classes, the one that needs no translation.
  for kind in ('labelTrainIds', 'labelIds'):
    if (maps / f'{names[0]}_gtFine_{kind}.png').is_file():
      break
  numbers = None
  if kind == 'labelIds':
    numbers = np.full(256, dense_maps.UNKNOWN, np.int32)
    numbers[[*range(_CITYSCAPES_LAST_ID + 1), IGNORED]] = IGNORED
    numbers[list(CITYSCAPES_CLASSES.values())] = range(19)
  return _create_source(
      f'cityscapes:{root} ({split})',
      _Files(images, [f'{name}{suffix}' for name in names]),
      labels=_Files(maps, [f'{name}_gtFine_{kind}.png' for name in names]),
      classes=tuple(CITYSCAPES_CLASSES), numbers=numbers,
      max_pixels=max_pixels)


def _create_pairs(
    root: pathlib.Path, split: str, train_split: str, max_pixels: int,
) -> DenseSource:
  images = root / split / 'images'
  if not images.is_dir():
    there = sorted(p.parent.name for p in root.glob('*/images'))
    raise ConfigError(
        f'pairs:{root} has no split {split!r}: there is no folder {images}; '
        f'its splits are {there}')
  names = [file.name for file in _image_files(images, max_pixels)]
  labels, depths = (
      _partners(images, names, root / split / folder, suffixes)
      for folder, suffixes in (
          ('labels', ('.png',)), ('depth', ('.npy', '.png'))))
  if labels is None and depths is None:
    raise ConfigError(
        f'pairs:{root}: there is neither {root / split / "labels"} nor '
        f'{root / split / "depth"}')
  classes = ()
  if labels is not None:
    classes = _read_classes(root) or _count_classes(
        root / train_split / 'labels', labels, max_pixels)
  return _create_source(
      f'pairs:{root} ({split})', _Files(images, names), labels=labels,
      depths=depths, classes=classes, max_pixels=max_pixels)


def _image_files(
    root: pathlib.Path, max_pixels: int) -> list[folder_index.ImageFile]:
  found = folder_index.examine_folder(root, max_pixels)
  if found.bad:
    bad = found.bad[0]
    raise ConfigError(
        f'{root / bad.name} is {bad.problem} ({len(found.bad)} such files); '
        'mend it, or remove it and its map')
  if not found.good:
    raise ConfigError(f'{root} holds no images')
  return found.good


def _partners(
    images: pathlib.Path, names: list[str], root: pathlib.Path,
    suffixes: tuple[str, ...]) -> _Files | None:
  """The map of each image, under its name without the suffix."""
  if not root.is_dir():
    return None
  maps = {p.relative_to(root).with_suffix('').as_posix(): p
          for p in sorted(root.rglob('*'))
          if p.suffix in suffixes and not p.name.startswith('.')}
  stems = [pathlib.PurePath(name).with_suffix('').as_posix() for name in names]
  alone = [str(images / name) for name, stem in zip(names, stems, strict=True)
           if stem not in maps]
  expected = f'a file of that name in {root} ({" or ".join(suffixes)})'
  if not alone:
    alone = [str(maps[stem]) for stem in sorted(set(maps) - set(stems))]
    expected = f'an image of that name in {images}'
  if alone:
    raise ConfigError(
        f'{alone[0]} is without partner ({len(alone)} such files); expected '
        f'{expected}')
  return _Files(
      root, [maps[stem].relative_to(root).as_posix() for stem in stems])


def _read_classes(root: pathlib.Path) -> tuple[str, ...]:
  path = root / 'classes.txt'
  if not path.is_file():
    return ()
  names = [line.strip() for line in path.read_text().splitlines()]
  return tuple(name for name in names if name)


def _count_classes(
    train: pathlib.Path, labels: _Files, max_pixels: int) -> tuple[str, ...]:
  """As many as the largest number in the train split says."""
  if train.is_dir():
    labels = _Files(train, sorted(
        p.relative_to(train).as_posix() for p in train.rglob('*.png')))
  files = dense_maps.examine_labels(labels.root, labels.names, max_pixels)
  largest = max(
      (value for file in files for value in file.values if value != IGNORED),
      default=0)
  return tuple(f'class {number}' for number in range(largest + 1))


def _create_source(
    name: str, images: _Files, *, labels: _Files | None = None,
    depths: _Files | None = None, classes: tuple[str, ...] = (),
    numbers: np.ndarray | None = None, max_pixels: int) -> DenseSource:
  """Checks every pair.

  Args:
    name: of the source.
    images: the examples.
    labels: their label maps.
    depths: their depth maps.
    classes: names; the maps hold their numbers and `IGNORED`.
    numbers: int32 [256], the class of each number in the files, `IGNORED`, or
      `dense_maps.UNKNOWN`; None: they are the classes.
    max_pixels: of an image or a map.
  """
  known = {file.name: file for file in _image_files(images.root, max_pixels)}
  for file_name in images.names:
    if file_name not in known:
      raise ConfigError(
          f'{name}: there is no image {images.root / file_name}')
  files = [known[file_name] for file_name in images.names]
  paths = tf.constant([os.fsencode(path) for path in (
      folder_index.readable_paths(images.root, files, max_pixels))])
  load_label = load_depth = is_labelled = None
  states = [file.state for file in files]
  if labels is not None:
    if numbers is None:
      numbers = np.full(256, dense_maps.UNKNOWN, np.int32)
      numbers[:len(classes)] = range(len(classes))
      numbers[IGNORED] = IGNORED
    maps = dense_maps.examine_labels(labels.root, labels.names, max_pixels)
    _check_sizes(images.root, files, labels.root, maps)
    _check_classes(labels.root, maps, numbers)
    states += [file.state for file in maps]
    load_label = dense_maps.make_load_label_fn(
        labels.root, maps, numbers, max_pixels)
    is_labelled = np.array([
        np.any(numbers[list(file.values)] != IGNORED) for file in maps])
  if depths is not None:
    maps = dense_maps.examine_depths(depths.root, depths.names, max_pixels)
    _check_sizes(images.root, files, depths.root, maps)
    states += [file.state for file in maps]
    load_depth = dense_maps.make_load_depth_fn(
        depths.root, maps, max_pixels)
  return DenseSource(
      name=name, num_examples=len(files),
      read_names=lambda: images.names,
      **examples.fingerprints(states),
      max_image_pixels=max_pixels,
      load=lambda index: {'image': tf.io.read_file(paths[index])},
      place_of=lambda index: str(images.root / images.names[index]),
      sizes=np.array([(f.height, f.width) for f in files], np.int32),
      map_classes=tuple(classes), is_labelled=is_labelled,
      load_label=load_label, load_depth=load_depth)


def _check_sizes(
    image_root: pathlib.Path, images: Sequence[folder_index.ImageFile],
    map_root: pathlib.Path, maps: Sequence[dense_maps.MapFile]) -> None:
  for image, found in zip(images, maps, strict=True):
    if (image.height, image.width) != (found.height, found.width):
      raise ConfigError(
          f'{map_root / found.name} is {found.width}x{found.height} pixels '
          f'and its image {image_root / image.name} is '
          f'{image.width}x{image.height}; expected equal sizes')


def _check_classes(
    root: pathlib.Path, maps: Sequence[dense_maps.MapFile],
    numbers: np.ndarray) -> None:
  known = np.flatnonzero(numbers != dense_maps.UNKNOWN)
  for found in maps:
    unknown = sorted(set(found.values) - set(known.tolist()))
    if unknown:
      raise ConfigError(
          f'{root / found.name} holds the unknown class {unknown[0]}; '
          f'expected {known[0]} to {known[known < IGNORED][-1]}, or {IGNORED} '
          'for pixels to be ignored')

"""A made set of scenes with label maps and depths, to try protocols on.

`python -m byol_jax.dense_scenes` writes them.

A scene is a grey wall with several pictures of a dataset before it. A picture
is labelled, all of it, as what it shows. Each class has a size of its own, so
how far away a picture is can be told by who knows what it shows, and how large
that looks. Scenes to train on are made of pictures of the train split, and
those to test on of the test split's.
"""

from collections.abc import Sequence
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from byol_jax import config as config_lib
from byol_jax.data import examples
from byol_jax.data import pipeline

CELL = 32  # pixels; each cell of a scene may hold a picture
WALL = 8.0  # metres away
_SIDES = 20, CELL  # of pictures in pixels, at least, at most
_FILLED = 0.8  # share of the cells
_SIZES = 1.0, 4.0  # of things in metres, those of the first and last class
_FOCAL_LENGTH = 30.0  # pixels
_GREYS = 80, 175  # of the wall's upper and lower edge, of 255
_NOISE = 6.0  # of 255
_MAX_CLASSES = 254  # beside the wall and what counts nowhere


class Scene(NamedTuple):
  """One picture and what is in it.

  Attributes:
    image: uint8 [H, W, 3].
    label: uint8 [H, W]; 0 is the wall, and then come the pictures' classes.
    depth: float32 [H, W], metres.
  """
  image: np.ndarray
  label: np.ndarray
  depth: np.ndarray


class Pictures:
  """What scenes are made of.

  Attributes:
    labels: int [n].
    class_names: as the source has them, or numbers.
  """

  def __init__(self, source: examples.Source):
    """Raises ConfigError unless every picture has one label."""
    if source.num_classes is None or source.is_multi_label:
      raise config_lib.ConfigError(
          f'{source.name} has '
          f'{"several" if source.is_multi_label else "no"} labels, expected '
          'one for each picture')
    if source.num_classes > _MAX_CLASSES:
      raise config_lib.ConfigError(
          f'{source.name} has {source.num_classes} classes, expected at most '
          f'{_MAX_CLASSES}: label maps have 8 bits')
    self._source = source
    self.labels = examples.read_labels(source)
    self.class_names = source.class_names or tuple(
        map(str, range(source.num_classes)))

  def read(self, index: int, side: int) -> np.ndarray:
    """The middle of a picture, uint8 [side, side, 3]."""
    image = Image.fromarray(pipeline.read_image(self._source, index).numpy())
    short = min(image.size)
    left, top = ((length - short) // 2 for length in image.size)
    return np.asarray(image.resize(
        (side, side), Image.Resampling.BICUBIC,
        box=(left, top, left + short, top + short)))


def make_scene(
    seed: Sequence[int] | int, pictures: Pictures, height: int, width: int
) -> Scene:
  """Draws one scene; the seed says which."""
  rng = np.random.default_rng(seed)
  sizes = np.geomspace(*_SIZES, len(pictures.class_names))
  wall = np.linspace(*rng.uniform(*_GREYS, 2), height)[:, None, None]
  image = wall + rng.normal(0, _NOISE, (height, width, 3))
  image = np.clip(np.round(image), 0, 255).astype(np.uint8)
  label = np.zeros((height, width), np.uint8)
  depth = np.full((height, width), WALL, np.float32)
  for row in range(height // CELL):
    for column in range(width // CELL):
      if rng.uniform() >= _FILLED:
        continue
      index = rng.integers(len(pictures.labels))
      side = rng.integers(*_SIDES, endpoint=True)
      top, left = rng.integers(CELL - side, endpoint=True, size=2)
      place = (slice(CELL * row + top, CELL * row + top + side),
               slice(CELL * column + left, CELL * column + left + side))
      number = pictures.labels[index]
      image[place] = pictures.read(index, side)
      label[place] = number + 1
      depth[place] = _FOCAL_LENGTH * sizes[number] / side
  return Scene(image, label, depth)


def write_scenes(
    output: str, *, train: Pictures, test: Pictures, num_unlabelled: int,
    num_train: int, num_test: int, height: int, width: int, seed: int = 0,
) -> None:
  """Writes a folder of scenes, as the module's docstring says.

  Raises:
    ConfigError: the height or width holds no whole number of cells.
  """
  if height % CELL or width % CELL or not height * width:
    raise config_lib.ConfigError(
        f'scenes of {height} x {width} pixels, expected multiples of {CELL}')
  root = pathlib.Path(output)
  for part, (split, pictures, count) in enumerate((
      ('unlabelled', train, num_unlabelled), ('train', train, num_train),
      ('test', test, num_test))):
    labelled = split != 'unlabelled'
    folders = [root / split / name for name in ('images', 'labels', 'depth')]
    for folder in folders if labelled else [root / split]:
      folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
      scene = make_scene((seed, part, number), pictures, height, width)
      name = f'{number:05d}'
      if not labelled:
        Image.fromarray(scene.image).save(root / split / f'{name}.png')
        continue
      images, labels, depths = folders
      Image.fromarray(scene.image).save(images / f'{name}.png')
      Image.fromarray(scene.label).save(labels / f'{name}.png')
      np.save(depths / f'{name}.npy', scene.depth)
  names = ('wall', *train.class_names)
  (root / 'classes.txt').write_text(''.join(f'{name}\n' for name in names))

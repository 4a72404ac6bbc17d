"""A made set of scenes with label maps and depths, to try protocols on.

    python -m byol_jax.data.dense_scenes --output=DIR

writes DIR/unlabelled/ (frames to pretrain on, as `folder:DIR/unlabelled`) and
DIR/train, DIR/test and DIR/classes.txt, as `pairs:DIR`. The same arguments
give the same pixels.

A scene is a wall above a floor, both grey, with several things of one kind
before them. What kind that is, outline and texture say together; colours say
nothing. So two crops of a scene have in common what its things are, which is
what pretraining can find. Depth grows up the floor to the wall; a thing stands
upright where its lower edge meets the floor, the smaller the further.
"""

from collections.abc import Sequence
import pathlib
from typing import NamedTuple

from absl import app
from absl import flags
import numpy as np
from PIL import Image

CLASSES = ('background', 'disc', 'square', 'triangle', 'ring', 'cross')
NEAR, FAR = 1.0, 8.0  # metres, the floor's at the lower edge, and the wall's
_THINGS = 2, 5  # at least, at most
_GREYS = 100, 150  # of walls and floors, of 255
_NOISE = 8.0  # of 255


class Scene(NamedTuple):
  """One picture and what is in it.

  Attributes:
    image: uint8 [H, W, 3].
    label: uint8 [H, W], numbers of `CLASSES`.
    depth: float32 [H, W], metres.
  """
  image: np.ndarray
  label: np.ndarray
  depth: np.ndarray


def make_scene(seed: Sequence[int] | int, height: int, width: int) -> Scene:
  """Draws one scene; the seed says which."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width].astype(np.float32)
  horizon = height * rng.uniform(0.3, 0.5)
  on_floor = y > horizon
  # As a pinhole camera sees a floor: depth is inverse to the distance below
  # the horizon, cut off at the wall.
  below = np.maximum(y - horizon, 1e-3) / (height - horizon)
  depth = np.where(on_floor, np.minimum(NEAR / below, FAR), FAR)
  image = np.where(on_floor[..., None], *rng.uniform(*_GREYS, 2))
  image = np.repeat(image, 3, axis=2)
  label = np.zeros((height, width), np.uint8)

  number = int(rng.integers(1, len(CLASSES)))
  count = rng.integers(_THINGS[0], _THINGS[1] + 1)
  distances = np.sort(rng.uniform(1.2 * NEAR, 0.6 * FAR, count))[::-1]
  for distance in distances:  # the nearest last, before all others
    radius = 0.3 * height / distance**0.5
    foot = horizon + (height - horizon) * NEAR / distance
    center = foot - radius, rng.uniform(0, width)
    v, u = (y - center[0]) / radius, (x - center[1]) / radius
    covered = _outline(CLASSES[number], u, v)
    shade = _texture(CLASSES[number], u, v)
    color = rng.uniform(60, 200, 3) * shade[..., None]
    image = np.where(covered[..., None], color, image)
    label[covered] = number
    depth = np.where(covered, distance, depth)

  image = image + rng.normal(0, _NOISE, image.shape)
  return Scene(
      np.clip(np.round(image), 0, 255).astype(np.uint8), label,
      depth.astype(np.float32))


def _outline(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Which positions a thing of radius 1 around (0, 0) covers."""
  square = np.maximum(abs(u), abs(v)) < 1
  distance = np.hypot(u, v)
  return {
      'disc': distance < 1,
      'square': square,
      'triangle': square & (abs(u) < (1 + v) / 2),
      'ring': (distance < 1) & (distance > 0.55),
      'cross': square & (np.minimum(abs(u), abs(v)) < 0.35),
  }[name]


def _texture(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """How bright a thing is at each position, in (0, 1.3)."""
  wave = {
      'disc': u,
      'square': v,
      'triangle': (u + v) / 2**0.5,
      'ring': np.hypot(u, v) * 2,
      'cross': (u - v) / 2**0.5,
  }[name]
  return 0.95 + 0.3 * np.sin(9 * wave)


def write_scenes(
    output: str, *, num_unlabelled: int, num_train: int, num_test: int,
    height: int, width: int, seed: int = 0) -> None:
  """Writes a folder of scenes, as the module's docstring says."""
  root = pathlib.Path(output)
  for part, (split, count) in enumerate((
      ('unlabelled', num_unlabelled), ('train', num_train),
      ('test', num_test))):
    labelled = split != 'unlabelled'
    folders = [root / split / name for name in ('images', 'labels', 'depth')]
    for folder in folders if labelled else [root / split]:
      folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
      scene = make_scene((seed, part, number), height, width)
      name = f'{number:05d}'
      if not labelled:
        Image.fromarray(scene.image).save(root / split / f'{name}.png')
        continue
      images, labels, depths = folders
      Image.fromarray(scene.image).save(images / f'{name}.png')
      Image.fromarray(scene.label).save(labels / f'{name}.png')
      np.save(depths / f'{name}.npy', scene.depth)
  (root / 'classes.txt').write_text(''.join(f'{c}\n' for c in CLASSES))


def main(_: Sequence[str]) -> None:
  """Writes what the flags say."""
  values = flags.FLAGS
  write_scenes(
      values.output, num_unlabelled=values.num_unlabelled,
      num_train=values.num_train, num_test=values.num_test,
      height=values.height, width=values.width, seed=values.seed)
  print(f'wrote {values.num_unlabelled} unlabelled scenes, '
        f'{values.num_train} to train and {values.num_test} to test on, to '
        f'{values.output}')


def _define_flags() -> None:
  flags.DEFINE_string('output', None, 'Folder to write.', required=True)
  flags.DEFINE_integer('num_unlabelled', 2000, 'Frames without maps.')
  flags.DEFINE_integer('num_train', 50, 'Scenes with maps to train on.')
  flags.DEFINE_integer('num_test', 200, 'Scenes with maps to test on.')
  flags.DEFINE_integer('height', 96, 'Pixels.')
  flags.DEFINE_integer('width', 128, 'Pixels.')
  flags.DEFINE_integer('seed', 0, 'Of every draw.')


if __name__ == '__main__':
  _define_flags()
  app.run(main)

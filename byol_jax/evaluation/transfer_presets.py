"""The paper's transfer datasets (Table 10), by name.

`--data=food101` takes the dataset from TFDS with the paper's splits and metric.
`--data=NAME:PATH` takes it from a folder with the splits `train`, `valid` and
`test`, each of a folder for every class; birdsnap and aircraft, which TFDS does
not hold, come so only, and voc2007, which has several labels each, never.

Where TFDS has no validation split, the first of its training examples are
train, as many as in the paper's, and the rest is valid. Which examples those
are, the paper does not say. The numbers of food101 and cifar10 are verified,
the others are from memory of its table.
"""

import dataclasses

from byol_jax import config as config_lib

_OF_FOLDERS = ('train', 'valid', 'test')
_GIVEN = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class Preset:
  """A dataset with its splits and its metric.

  Attributes:
    metric: `top1`, `mean_per_class` or `map`.
    tfds: its name there, or None.
    splits: train, valid and test, as TFDS takes them.
  """

  metric: str
  tfds: str | None = None
  splits: tuple[str, str, str] = _OF_FOLDERS


def _cut(
    name: str, metric: str, num_train: int, *, test: str = 'test') -> Preset:
  """Train and valid are one split of TFDS."""
  return Preset(
      metric, name, (f'train[:{num_train}]', f'train[{num_train}:]', test))


PRESETS = {
    'food101': _cut('food101', 'top1', 68175, test='validation'),
    'cifar10': _cut('cifar10', 'top1', 45000),
    'cifar100': _cut('cifar100', 'top1', 44933),
    'birdsnap': Preset('top1'),
    'sun397': _cut('sun397/standard-part1-120k', 'top1', 15880),
    'cars': _cut('cars196', 'top1', 6494),
    'aircraft': Preset('mean_per_class'),
    'voc2007': Preset('map', 'voc/2007', _GIVEN),
    'dtd': Preset('top1', 'dtd', _GIVEN),
    'pets': _cut('oxford_iiit_pet', 'mean_per_class', 2940),
    'caltech101': _cut('caltech101', 'mean_per_class', 2550),
    'flowers102': Preset('mean_per_class', 'oxford_flowers102', _GIVEN),
}


def expand(data: str) -> dict[str, str | float]:
  """The config fields that `--data=DATA` stands for.

  Args:
    data: as `config.data`, or `NAME` or `NAME:PATH` of a preset.

  Returns:
    `data` and, of a preset, `train_split`, `valid_split`, `test_split`,
    `metric`, and a `test_crop_ratio` of 1: D.2 shows all of an image's middle.

  Raises:
    ConfigError: if TFDS does not hold the preset and there is no path, or if
      a folder cannot say its labels.
  """
  name, _, path = data.partition(':')
  preset = PRESETS.get(name)
  if preset is None:
    return {'data': data}
  if path and preset.metric == 'map':
    raise config_lib.ConfigError(
        f'--data={data}: images of {name} have several labels each, and those '
        f'of a folder one; give --data={name}, which is from TFDS, or '
        '--data=arrays:FILE.npz with --config.metric=map')
  if path:
    place, splits = f'folder:{path}', _OF_FOLDERS
  elif preset.tfds:
    place, splits = f'tfds:{preset.tfds}', preset.splits
  else:
    raise config_lib.ConfigError(
        f'TFDS does not hold {name}: put its images in '
        f'FOLDER/{{train,valid,test}}/CLASS and give --data={name}:FOLDER')
  return {
      'data': place, 'train_split': splits[0], 'valid_split': splits[1],
      'test_split': splits[2], 'metric': preset.metric,
      'test_crop_ratio': 1.0}

"""The labels that semi-supervised learning may see."""

import pathlib

import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax.data import examples


def check(settings: ml_collections.ConfigDict) -> None:
  """Raises ConfigError for subsets that do not go with the shares."""
  if settings.subsets and len(settings.subsets) != len(settings.shares):
    raise config_lib.ConfigError(
        f'config.semi_supervised.subsets names {len(settings.subsets)} files '
        f'for {len(settings.shares)} shares, expected one each')
  for path in settings.subsets:
    if not pathlib.Path(path).expanduser().is_file():
      raise config_lib.ConfigError(
          f'config.semi_supervised.subsets: there is no file {path}')


def choose(
    source: examples.Source, labels: np.ndarray, share: float, *, seed: int,
    path: str | None = None,
) -> np.ndarray:
  """The examples whose labels may be seen: fixed, and balanced by class.

  Args:
    source: that the labels are of.
    labels: int[N].
    share: of each class, at least one example of each that has any.
    seed: of the draw.
    path: of a file that names the examples instead, a line each: numbers, or
      names of files as the source has them (SimCLR's lists are names).

  Returns:
    int[M], rising.

  Raises:
    ConfigError: a file that does not fit the source.
  """
  if path is not None:
    return _read(path, source)
  rng = np.random.default_rng(seed)
  chosen = []
  for label in np.unique(labels):
    of_class = rng.permutation(np.flatnonzero(labels == label))
    chosen.append(of_class[:max(round(share * len(of_class)), 1)])
  return np.sort(np.concatenate(chosen))


def _read(path: str, source: examples.Source) -> np.ndarray:
  lines = pathlib.Path(path).expanduser().read_text().split()
  if not lines:
    raise config_lib.ConfigError(
        f'{path} is empty, expected an index or a file name a line')
  if not all(line.isdecimal() for line in lines):
    return _find(path, lines, source)
  index = np.array(lines, np.int64)
  if index.max() >= source.num_examples:
    raise config_lib.ConfigError(
        f'{path} has the index {index.max()}, expected below '
        f'{source.num_examples}, the number of examples of {source.name}')
  return np.unique(index)


def _find(
    path: str, names: list[str], source: examples.Source) -> np.ndarray:
  """By the last part of their paths, or by more of it where lists have more."""
  if source.read_names is None:
    raise config_lib.ConfigError(
        f'{path} names files, such as {names[0]}, and examples of '
        f'{source.name} have no names; expected indices')
  known = {}
  for number, name in enumerate(source.read_names()):
    known[name] = number
    known.setdefault(pathlib.PurePosixPath(name).name, number)
  missing = [name for name in names if name not in known]
  if missing:
    raise config_lib.ConfigError(
        f'{path} names {len(missing)} files that {source.name} does not hold, '
        f'such as {missing[0]}; its files are named like {next(iter(known))}')
  return np.unique([known[name] for name in names])

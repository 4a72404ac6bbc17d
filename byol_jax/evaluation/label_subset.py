"""The labels that semi-supervised learning may see."""

import collections
import pathlib
import re

from etils import epath
import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax.data import examples

_INTEGER = re.compile(r'-?[0-9]+')
_MAX_DIGITS = 18


def check(
    settings: ml_collections.ConfigDict, source: examples.Source) -> None:
  """Raises ConfigError for lists that fit neither the shares nor the source."""
  if settings.subsets and len(settings.subsets) != len(settings.shares):
    raise config_lib.ConfigError(
        f'config.semi_supervised.subsets names {len(settings.subsets)} files '
        f'for {len(settings.shares)} shares, expected one each')
  for path in settings.subsets:
    if not epath.Path(path).expanduser().is_file():
      raise config_lib.ConfigError(
          f'config.semi_supervised.subsets: there is no file {path}')
    _read(path, source)


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
  for label in np.unique(labels[labels >= 0]):  # -1: cannot be read
    of_class = rng.permutation(np.flatnonzero(labels == label))
    chosen.append(of_class[:max(round(share * len(of_class)), 1)])
  return np.sort(np.concatenate(chosen))


def _read(path: str, source: examples.Source) -> np.ndarray:
  try:
    lines = epath.Path(path).expanduser().read_text('utf-8').split()
  except UnicodeDecodeError:
    raise config_lib.ConfigError(
        f'{path} is no text in UTF-8, expected an index or a file name a line'
    ) from None
  if not lines:
    raise config_lib.ConfigError(
        f'{path} is empty, expected an index or a file name a line')
  if not all(_INTEGER.fullmatch(line) for line in lines):
    return _find(path, lines, source)
  for line in lines:
    # As text first: Python reads no more than some thousand digits.
    if len(line) > _MAX_DIGITS or not 0 <= int(line) < source.num_examples:
      raise config_lib.ConfigError(
          f'{path} has the index {line[:_MAX_DIGITS]}, expected from 0 to '
          f'below {source.num_examples}, the number of examples of '
          f'{source.name}')
  return np.unique(np.array(lines, np.int64))


def _find(
    path: str, names: list[str], source: examples.Source) -> np.ndarray:
  """By the last part of their paths, or by more of it where lists have more."""
  if source.read_names is None:
    raise config_lib.ConfigError(
        f'{path} names files, such as {names[0]}, and examples of '
        f'{source.name} have no names; expected indices')
  paths = source.read_names()
  last_parts = [pathlib.PurePosixPath(path).name for path in paths]
  known = dict(zip(last_parts, range(len(paths)), strict=True))
  known |= zip(paths, range(len(paths)), strict=True)
  missing = [name for name in names if name not in known]
  if missing:
    raise config_lib.ConfigError(
        f'{path} names {len(missing)} files that {source.name} does not hold, '
        f'such as {missing[0]}; its files are named like {paths[0]}')
  repeated = {
      name for name, count in collections.Counter(last_parts).items()
      if count > 1} - set(paths)
  unclear = [name for name in names if name in repeated]
  if unclear:
    raise config_lib.ConfigError(
        f'{path} names {unclear[0]}, which {source.name} holds several of; '
        f'name it by its path, like {paths[0]}')
  return np.unique([known[name] for name in names])

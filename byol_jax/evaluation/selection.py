"""Choosing settings, on examples that are not of the test split."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import TypeVar

from absl import logging
import numpy as np

from byol_jax.evaluation import features as features_lib
from byol_jax.evaluation import progress as progress_lib
from byol_jax.training import agreement

Choice = TypeVar('Choice')
Fit = TypeVar('Fit')


def hold_out(index: np.ndarray, share: float, seed: int) -> np.ndarray:
  """Draws a share of `index`, rising; at least one where it is above 0."""
  count = max(round(share * len(index)), min(share > 0, len(index) - 1))
  drawn = np.random.default_rng(seed).permutation(index)[:count]
  return np.sort(drawn)


def take_rows(
    features: features_lib.Features, rows: np.ndarray
) -> features_lib.Features:
  """Some rows, by number or mask."""
  return features_lib.Features(
      embedding=features.embedding[rows], index=features.index[rows],
      label=features.label[rows])


def separate(
    splits: features_lib.Splits, share: float, seed: int
) -> tuple[features_lib.Features, features_lib.Features]:
  """What to fit, and what to choose on.

  Args:
    splits: with a validation split, which is then what to choose on.
    share: of train that is held out where there is none.
    seed: of the draw.

  Returns:
    Two disjoint sets of labelled features.
  """
  if splits.valid is not None:
    return splits.train, splits.valid
  held_out = np.isin(
      splits.train.index, hold_out(splits.train.index, share, seed))
  return (take_rows(splits.train, ~held_out),
          take_rows(splits.train, held_out))


def choose(
    grid: Sequence[Choice], measure: Callable[[Choice], float],
    progress: progress_lib.Progress,
) -> Choice:
  """The choice with the highest figure; of equals, the first.

  Args:
    grid: what to choose from; a single one is not measured.
    measure: fits with a choice and measures it on what is held out; NaN never
      wins.
    progress: where figures are kept, so that a sweep goes on where it was.
  """
  if len(grid) == 1:
    return grid[0]
  figures = []
  for number, choice in enumerate(grid):
    found = progress.keep(
        f'choice{number}', lambda choice=choice: [('figure', _agree(
            measure(choice)))])
    figures.append(found['figure'])
    logging.info('%d of %d choices: %s gives %.4f', number + 1, len(grid),
                 choice, figures[-1])
  return grid[int(np.argmax(figures))]


def _agree(figure: float) -> float:
  """The first process's, should machines round differently; NaN is -1.

  Who chose otherwise would make another fit than those it makes it with.
  """
  return agreement.of_first(float(np.nan_to_num(figure, nan=-1.0)))


def choose_fit(
    grid: Sequence[Choice], fit: Callable[[Choice], Fit],
    measure: Callable[[Fit], float], progress: progress_lib.Progress,
) -> tuple[Choice, Fit]:
  """`choose`, and the fit with that choice.

  The best one so far is kept in memory. After an interruption, or of a grid of
  one, it is made again, or first.

  Args:
    grid: what to choose from.
    fit: makes a fit with a choice, the same each time.
    measure: of a fit, on what is held out.
    progress: see `choose`.
  """
  best = {}

  def fit_and_measure(choice: Choice) -> float:
    made = fit(choice)
    figure = _agree(measure(made))
    if figure > best.get('figure', -np.inf):
      best.update(figure=figure, choice=choice, fit=made)
    return figure

  choice = choose(grid, fit_and_measure, progress)
  return choice, best['fit'] if best.get('choice') == choice else fit(choice)

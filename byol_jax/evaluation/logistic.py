"""Logistic regression on features: a path of strengths, the best of them.

The transfer protocol of the paper (appendix D.2, after Kornblith et al. 2019):
features of the frozen encoder as they are, 45 logarithmically spaced strengths
l2 from 1e-6 to 1e5, the best on validation, refitted on train and validation.

Neither paper says how a strength enters. On the sum of the losses and not the
mean, as in Kornblith's published tool (google-research/linear_eval), the 45
values reach from features unused to features separated if they can be. The
tool has no half before the penalty (see `logistic_fit`): its l2 is half of
ours, a bit more than one of the 44 steps between the values.

Along the path, from strong to weak, weights change smoothly in log l2: a fit
starts where a line through the last two leads, and so close to its minimum
that p (1 - p), which the solver scales by, is there what it is at the minimum.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any
from typing import Protocol

from absl import logging
import jax
import numpy as np

from byol_jax import peers
from byol_jax.evaluation import accuracy
from byol_jax.evaluation import logistic_fit


def l2_values(count: int = 45) -> tuple[float, ...]:
  """Strengths from 1e5 down to 1e-6, evenly spaced in the logarithm."""
  return tuple(float(x) for x in np.logspace(5, -6, count))


class Progress(Protocol):
  """Where fits are kept, so that a path goes on where it was stopped.

  It must be of one dataset, encoder, tolerance and so on: what it holds is
  taken as it is.
  """

  def get(self, key: str) -> dict[str, Any] | None:
    """What was put there, or None."""

  def put(self, key: str, value: dict[str, Any]) -> None:
    """Keeps arrays, numbers and bools."""


@dataclasses.dataclass(frozen=True)
class Split:
  """Features f32[N, D], and targets as `logistic_fit.create_problem` has them.
  """

  features: np.ndarray
  target: np.ndarray


def fit_path(
    problem: logistic_fit.Problem, strengths: Sequence[float], *,
    max_iterations: int, tolerance: float, progress: Progress | None = None,
) -> Iterator[logistic_fit.Fit]:
  """Fits at each strength, from the strongest to the weakest.

  Args:
    problem: see `logistic_fit.create_problem`.
    strengths: of any order, each above 0.
    max_iterations: of each fit.
    tolerance: of each fit.
    progress: keeps what is fitted, or None. A path that goes on from there
      is the same, bit for bit.

  Yields:
    As many fits.
  """
  fits = []
  for l2 in sorted(set(strengths), reverse=True):
    make = functools.partial(
        logistic_fit.fit, problem, l2, _predict_start(fits, l2),
        max_iterations=max_iterations, tolerance=tolerance)
    fits = [*fits[-1:], _keep(progress, f'path-{l2:.6e}', make)]
    peers.advance(f'logistic, l2 {l2:.2e}')
    yield fits[-1]


def _predict_start(
    fits: Sequence[logistic_fit.Fit], l2: float) -> logistic_fit.Params | None:
  """Where the line through the last two fits, over log l2, leads."""
  if len(fits) < 2:
    return fits[-1].params if fits else None
  before, last = fits[-2:]
  share = np.float32(np.log(l2 / last.l2) / np.log(last.l2 / before.l2))
  return jax.tree.map(
      lambda a, b: b + share * (b - a), before.params, last.params)


def _keep(
    progress: Progress | None, key: str, make: Callable[[], logistic_fit.Fit]
) -> logistic_fit.Fit:
  """What `progress` has under that key, or else what is made, put there."""
  kept = None if progress is None else progress.get(key)
  if kept is not None:
    figures = dict(kept)
    params = {name: figures.pop(name) for name in ('kernel', 'bias')}
    return logistic_fit.Fit(params, **figures)
  made = make()
  if progress is not None:
    figures = dataclasses.asdict(made)
    progress.put(key, figures.pop('params') | figures)
  return made


def measure(params: logistic_fit.Params, split: Split, metric: str) -> float:
  """The metric, one of `accuracy.METRICS`, of at least one labelled row."""
  logits = logistic_fit.compute_logits(params, split.features)
  return accuracy.METRICS[metric](logits, split.target)


def choose(
    fits: Iterable[logistic_fit.Fit], valid: Split, metric: str
) -> tuple[logistic_fit.Fit, float]:
  """The fit that is best on validation, and how good; of equals the strongest.

  Args:
    fits: from the strongest to the weakest, see `fit_path`.
    valid: the split that decides.
    metric: one of `accuracy.METRICS`.
  """
  best, best_value = None, -1.0
  for result in fits:
    value = measure(result.params, valid, metric)
    logging.info(
        'logistic: l2 %.2e: %s %.4f on validation, %d iterations', result.l2,
        metric, value, result.iterations)
    if value > best_value:
      best, best_value = result, value
  return best, best_value


def run(
    train: Split, valid: Split, test: Split, *, num_classes: int, metric: str,
    strengths: Sequence[float], max_iterations: int, tolerance: float,
    progress: Progress | None = None,
) -> Iterator[tuple[str, float]]:
  """The whole protocol.

  Args:
    train: the path is fitted to it.
    valid: chooses the strength, and joins `train` for the last fit.
    test: is measured, once.
    num_classes: C.
    metric: one of `accuracy.METRICS`; with 'map' targets are of several labels.
    strengths: to choose from, see `l2_values`.
    max_iterations: of each fit.
    tolerance: of each fit.
    progress: see `fit_path`.

  Yields:
    `logistic/test_METRIC`, `logistic/valid_METRIC` of the chosen fit,
    `logistic/l2`, and `logistic/not_converged`, of how many fits.
  """
  make = functools.partial(
      logistic_fit.create_problem, num_classes=num_classes,
      loss='sigmoid' if metric == 'map' else 'softmax')
  settings = dict(max_iterations=max_iterations, tolerance=tolerance)
  not_converged = 0

  def count(fits: Iterable[logistic_fit.Fit]) -> Iterator[logistic_fit.Fit]:
    nonlocal not_converged
    for result in fits:
      not_converged += not result.converged
      yield result

  best, valid_value = choose(
      count(fit_path(
          make(train.features, train.target), strengths, progress=progress,
          **settings)),
      valid, metric)
  both = Split(*(np.concatenate(pair) for pair in zip(
      dataclasses.astuple(train), dataclasses.astuple(valid), strict=True)))
  problem = make(both.features, both.target)
  last, = count([_keep(progress, 'refit', lambda: logistic_fit.fit(
      problem, best.l2, best.params, **settings))])
  yield f'logistic/test_{metric}', measure(last.params, test, metric)
  yield f'logistic/valid_{metric}', valid_value
  yield 'logistic/l2', best.l2
  yield 'logistic/not_converged', float(not_converged)

"""How much faster the path of logistic regression is than cold fits."""

from collections.abc import Callable
from collections.abc import Iterable
import statistics
import time
from typing import Any

import numpy as np

from byol_jax.evaluation import logistic
from byol_jax.evaluation import logistic_fit

_SETTINGS = dict(max_iterations=5000, tolerance=1e-3)


def project(
    batches: Iterable[dict[str, np.ndarray]], size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
  """A random projection of pixels and a ReLU: features of no encoder.

  Args:
    batches: `image` f32[B, H, W, 3] in [0, 1], `label` i32[B], `mask`
      bool[B], False for padding.
    size: D.

  Returns:
    Features f32[N, D] and labels i32[N].
  """
  rows = [(b['image'][b['mask']], b['label'][b['mask']]) for b in batches]
  image, label = (np.concatenate(column) for column in zip(*rows, strict=True))
  pixels = image.reshape(len(image), -1) - 0.5
  weights = np.random.default_rng(0).normal(
      scale=pixels.shape[1] ** -0.5, size=(pixels.shape[1], size))
  return np.maximum(pixels @ weights.astype(np.float32), 0), label


def measure(
    batches: Iterable[dict[str, np.ndarray]], *, num_classes: int,
    windows: int,
) -> dict[str, Any]:
  """Times the path and the cold fits, in turn, to one tolerance.

  Args:
    batches: see `project`.
    num_classes: C.
    windows: how often each is timed; medians count.

  Returns:
    Seconds, their ratio (the median of the windows' ratios), iterations, fits
    that have not converged, and the largest difference of the objectives,
    relative to the cold fit's.
  """
  features, label = project(batches)
  problem = logistic_fit.create_problem(
      features, label, num_classes=num_classes)
  strengths = logistic.l2_values()

  def fit_cold() -> list[logistic_fit.Fit]:
    return [logistic_fit.fit(problem, l2, **_SETTINGS) for l2 in strengths]

  def fit_path() -> list[logistic_fit.Fit]:
    return list(logistic.fit_path(problem, strengths, **_SETTINGS))

  logistic_fit.fit(problem, strengths[0], **_SETTINGS)  # compiles
  secs = {'cold': [], 'path': []}
  for _ in range(windows):
    secs['cold'].append(_time(fit_cold))
    secs['path'].append(_time(fit_path))
  cold, path = fit_cold(), fit_path()
  return {
      'examples': len(features), 'embedding_size': features.shape[1],
      'fits': len(strengths), **_SETTINGS,
      **{f'{name}_seconds': statistics.median(x) for name, x in secs.items()},
      'cold_over_path': statistics.median(
          c / p for c, p in zip(secs['cold'], secs['path'], strict=True)),
      'cold_iterations': sum(f.iterations for f in cold),
      'path_iterations': sum(f.iterations for f in path),
      'not_converged': sum(not f.converged for f in [*cold, *path]),
      'largest_relative_difference': max(
          abs(p.objective / c.objective - 1)
          for c, p in zip(cold, path, strict=True))}


def _time(run: Callable[[], Any]) -> float:
  begin = time.perf_counter()
  run()
  return time.perf_counter() - begin

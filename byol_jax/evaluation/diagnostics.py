"""How many directions embeddings use, and how evenly."""

from collections.abc import Iterator

import numpy as np

from byol_jax.evaluation import features as features_lib

# Rows that the effective rank looks at; it hardly moves beyond.
_MAX_ROWS = 10_000
# That must be possible for a rank below 3 to be a sign.
_MIN_DIRECTIONS = 8


def spectrum(rows: np.ndarray) -> np.ndarray:
  """Eigenvalues of the rows' covariance as shares of their sum, falling.

  All are 0 where the rows are equal, to within rounding of float32; NaN where
  a row is not finite.

  Args:
    rows: f[N, D].

  Returns:
    f64[min(N, D)].
  """
  rows = np.asarray(rows, np.float64)
  if not np.isfinite(rows).all():
    return np.full(min(rows.shape), np.nan)
  centred = rows - rows.mean(axis=0, keepdims=True)
  if centred.shape[0] < centred.shape[1]:
    centred = centred.T
  values = np.linalg.eigvalsh(centred.T @ centred)[::-1]
  # What rows that are equal but for rounding can leave behind.
  rounding = (np.finfo(np.float32).eps * np.linalg.norm(rows)) ** 2
  values = np.where(values > rounding, values, 0.0)
  return values / (values.sum() or 1.0)


def effective_rank(rows: np.ndarray) -> float:
  """How many directions the rows use (Roy and Vetterli 2007).

  The exponential of the entropy of the singular values of the centred rows,
  divided by their sum: D where all D directions carry equal weight, 1 where
  the rows lie on a line, 0 where they are all equal, to within rounding.

  Args:
    rows: f32[N, D]; N above D for the rank to be free to reach D.
  """
  singular = np.sqrt(spectrum(rows))
  if not singular.any():
    return 0.0
  share = singular[singular != 0] / singular.sum()
  return float(np.exp(-np.sum(share * np.log(share))))


def spread(rows: np.ndarray) -> float:
  """Mean standard deviation of rows of unit length, times sqrt(D).

  1 where directions are spread evenly, 0 where all rows point one way.

  Args:
    rows: f32[N, D].
  """
  rows = np.asarray(rows, np.float64)
  norm = np.linalg.norm(rows, axis=1, keepdims=True)
  unit = rows / np.maximum(norm, 1e-12)
  return float(unit.std(axis=0).mean() * np.sqrt(rows.shape[1]))


def run(features: features_lib.Features) -> Iterator[tuple[str, float]]:
  """Measures embeddings, and the heads' outputs where they were extracted.

  Up to 10 000 rows are looked at, evenly spaced. No rank where rows or
  dimensions are too few for a low one to mean anything.

  Yields:
    `diagnostics/embedding_rank`, `diagnostics/embedding_std`, and the same
    of `projection` and `prediction`. With running statistics, unlike
    `train/embedding_std`.
  """
  for name in ('embedding', 'projection', 'prediction'):
    rows = getattr(features, name)
    if rows is not None:
      rows = rows[::-(-len(rows) // _MAX_ROWS)]
      if min(len(rows) - 1, rows.shape[1]) >= _MIN_DIRECTIONS:
        yield f'diagnostics/{name}_rank', effective_rank(rows)
      yield f'diagnostics/{name}_std', spread(rows)

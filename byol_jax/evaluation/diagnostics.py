"""Signs of collapse: how many directions embeddings use, and how evenly."""

from collections.abc import Iterator
from collections.abc import Mapping

import ml_collections
import numpy as np

from byol_jax.evaluation import features as features_lib

# Rows that the effective rank looks at; it hardly moves beyond.
_MAX_ROWS = 10_000

# Below these a figure is a sign of collapse. ResNets of depth 10 to 50, just
# initialised, stand above 0.3 (embedding) and 0.75 (projection) with batch
# statistics, and above 40 directions. Embeddings follow a ReLU, so their mean
# is far from zero and their spread is lower than that of projections.
THRESHOLDS = {
    'train/embedding_std': 0.05,
    'train/projection_std': 0.1,
    'diagnostics/embedding_rank': 3.0,
    'diagnostics/projection_rank': 3.0,
}


def effective_rank(rows: np.ndarray) -> float:
  """How many directions the rows use (Roy and Vetterli 2007).

  The exponential of the entropy of the singular values of the centred rows,
  divided by their sum: D where all D directions carry equal weight, 1 where
  the rows lie on a line, 0 where they are all equal, to within rounding.

  Args:
    rows: f32[N, D]; N above D for the rank to be free to reach D.
  """
  rows = np.asarray(rows, np.float64)
  centred = rows - rows.mean(axis=0, keepdims=True)
  if centred.shape[0] < centred.shape[1]:
    centred = centred.T
  square = np.linalg.eigvalsh(centred.T @ centred)
  singular = np.sqrt(np.maximum(square, 0.0))
  # What float32 rows that are equal but for rounding can leave behind.
  rounding = np.finfo(np.float32).eps * np.linalg.norm(rows)
  singular = singular[singular > rounding]
  if not singular.size:
    return 0.0
  share = singular / singular.sum()
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
  """Measures embeddings, and projections where they were extracted.

  Up to 10 000 rows are looked at, evenly spaced.

  Yields:
    `diagnostics/embedding_rank`, `diagnostics/embedding_std`, and the same
    of `projection`. With running statistics, unlike `train/embedding_std`.
  """
  for name in ('embedding', 'projection'):
    rows = getattr(features, name)
    if rows is not None:
      rows = rows[::-(-len(rows) // _MAX_ROWS)]
      yield f'diagnostics/{name}_rank', effective_rank(rows)
      yield f'diagnostics/{name}_std', spread(rows)


def collapse_signs(metrics: Mapping[str, float]) -> list[str]:
  """Says what in a row of metrics looks like collapse.

  Args:
    metrics: whatever of `THRESHOLDS` it holds is looked at.

  Returns:
    One sentence for each bad sign; none for a healthy run.
  """
  signs = []
  for name, threshold in THRESHOLDS.items():
    value = metrics.get(name)
    if value is None or value >= threshold:
      continue
    what = name.split('/')[1].split('_')[0]
    if name.endswith('std'):
      signs.append(
          f'{what}s are collapsing to a point: {name} is below {threshold:g} '
          '(healthy: near 1). ' + _CAUSES)
    else:
      signs.append(
          f'{what}s use fewer than {threshold:g} directions: {name} is below '
          f'{threshold:g} (healthy: tens). ' + _CAUSES)
  return signs


_CAUSES = (
    'Likely causes: no predictor, a target that follows too fast '
    '(config.base_tau), a learning rate too high, batch statistics over too '
    'few images')


def likely_causes(config: ml_collections.ConfigDict) -> list[str]:
  """What in a configuration is known to collapse, with what is known of it.

  Numbers are top-1 on ImageNet from the paper's ablations (tables 5 and 21;
  appendix F), where the baseline has 72.5.
  """
  causes = []
  if not config.beta:
    if not config.predictor.depth:
      causes.append(
          'config.predictor.depth=0: without a predictor and without '
          'negatives the loss has a trivial minimum (0.2 % in the paper). Set '
          'it to 2.')
    if config.target == 'online':
      causes.append(
          'config.target=online: gradient flows into the target, so both '
          'sides may shrink to a constant. Set it to ema.')
    fast = config.target == 'ema' and config.base_tau < 0.9
    if config.target == 'stop_gradient' or fast:
      causes.append(
          'The target follows the online network too fast (0.3 % in the paper '
          'where it copies it). Set config.target=ema and config.base_tau '
          'between 0.99 and 0.999, or raise '
          'config.predictor_learning_rate_multiplier to 10.')
  if config.optimizer != 'lars' and config.base_learning_rate > 0.1:
    causes.append(
        f'config.base_learning_rate={config.base_learning_rate:g} is of '
        f'LARS\'s scale, the optimizer is {config.optimizer}: try 0.03 (sgd) '
        'or 0.0005 (adamw).')
  if config.optimizer == 'lars' and not config.weight_decay:
    causes.append(
        'config.weight_decay=0 is unstable with LARS in the paper: try 1e-6.')
  per_statistic = config.batch_size // config.accumulation_steps
  if per_statistic < 64:
    causes.append(
        f'Batch statistics come from {per_statistic} images: raise '
        'config.batch_size or lower config.accumulation_steps.')
  return causes

"""Accuracy of class scores, in the ways that the datasets ask for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import config as config_lib


@functools.partial(jax.jit, static_argnames='count')
def count_hits(
    scores: jax.Array, label: jax.Array, *, count: int) -> jax.Array:
  """How many examples have their label among the `count` highest scores.

  Of equal scores the lower class goes first.

  Args:
    scores: float[..., N, C].
    label: i32[N].
    count: at most C.

  Returns:
    i32[...], at most N.
  """
  _, classes = jax.lax.top_k(scores, count)
  right = jnp.broadcast_to(jnp.expand_dims(label, -1), (*label.shape, count))
  hits = classes == jnp.broadcast_to(right, classes.shape)
  return jnp.sum(jnp.any(hits, axis=-1), axis=-1, dtype=jnp.int32)


def top_counts(num_classes: int) -> tuple[int, ...]:
  """Which accuracies say something: top-5 only of more than five classes."""
  return (1, 5) if num_classes > 5 else (1,)


def mean_per_class(scores: np.ndarray, label: np.ndarray) -> float:
  """Accuracy within each class, then the mean over classes.

  The figure of datasets of unequal classes (paper, table 3: aircraft, pets,
  Caltech-101, flowers). Of equal scores the lower class goes first; classes
  without an example do not count.

  Args:
    scores: float[N, C], N at least 1.
    label: int[N] in [0, C).

  Returns:
    In [0, 1].
  """
  hits = np.argmax(scores, axis=1) == label
  num_classes = scores.shape[1]
  total = np.bincount(label, minlength=num_classes)
  right = np.bincount(label[hits], minlength=num_classes)
  return float(np.mean(right[total > 0] / total[total > 0]))


def mean_average_precision(scores: np.ndarray, target: np.ndarray) -> float:
  """11-point interpolated average precision, the mean over classes.

  As the development kit of VOC 2007 has it: the mean over recalls 0, 0.1, ...,
  1 of the highest precision at that recall or more. Of equal scores the
  earlier row goes first, as in the kit's stable sort. Recalls are compared as
  whole numbers: 3 of 10 is a recall of 0.3, whatever floats say.

  Args:
    scores: float[N, C].
    target: int[N, C]: 1 the class is there, 0 it is not, -1 there are only
      difficult instances of it, which count neither way.

  Returns:
    In [0, 1]. Classes without an example that counts as 1 are left out.

  Raises:
    ConfigError: no class has one.
  """
  present = np.flatnonzero(np.any(target == 1, axis=0))
  if not present.size:
    raise config_lib.ConfigError(
        f'none of the {target.shape[0]} examples shows any of the '
        f'{target.shape[1]} classes, expected targets of 1, 0 and -1: average '
        'precision needs positive examples')
  return float(np.mean([
      _average_precision(scores[:, c], target[:, c]) for c in present]))


def _average_precision(score: np.ndarray, target: np.ndarray) -> float:
  """Of one class: float[N] and int[N], at least one of which is 1."""
  score, target = score[target >= 0], target[target >= 0]
  hits = np.cumsum(target[np.argsort(-score, kind='stable')])
  precision = hits / np.arange(1, len(hits) + 1)
  return float(np.mean([
      precision[10 * hits >= tenths * hits[-1]].max()
      for tenths in range(11)]))


# By their names in `config.metric`: scores float[N, C] and labels to a share.
METRICS = {
    'top1': lambda scores, label: float(np.mean(
        np.argmax(scores, axis=1) == label)),
    'mean_per_class': mean_per_class,
    'map': mean_average_precision,
}

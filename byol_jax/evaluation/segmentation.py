"""Segmentation: the pixels' cross-entropy, and IoU from a confusion matrix.

A label map holds classes counted from 0, and `IGNORED` where a pixel counts
neither for training nor for measuring.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from byol_jax import config as config_lib
from byol_jax.data.dense import IGNORED


def cross_entropy(
    logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Softmax cross-entropy of every pixel that is not ignored.

  Args:
    logits: f32[B, H, W, C].
    label: int[B, H, W], classes or `IGNORED`.

  Returns:
    The sum over pixels, and their number, both f32[].
  """
  counted = label != IGNORED
  label = jnp.where(counted, label, 0).astype(jnp.int32)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
  weight = counted.astype(logits.dtype)
  return jnp.sum(loss * weight), jnp.sum(weight)


def count_confusions(
    prediction: np.ndarray, label: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts pixels by true (rows) and predicted class (columns).

  Args:
    prediction: int[...], classes.
    label: int[...] of the same shape, classes or `IGNORED`, left out.
    num_classes: C.

  Returns:
    i64[C, C].
  """
  counted = label != IGNORED
  pairs = (label[counted].astype(np.int64) * num_classes
           + prediction[counted].astype(np.int64))
  return np.bincount(pairs, minlength=num_classes**2).reshape(
      num_classes, num_classes)


def class_ious(confusions: np.ndarray) -> np.ndarray:
  """Intersection over union of each class, f64[C].

  NaN for a class that is neither in the label maps nor predicted.
  """
  hits = np.diagonal(confusions).astype(np.float64)
  union = confusions.sum(axis=0) + confusions.sum(axis=1) - hits
  return np.divide(
      hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def measure(confusions: np.ndarray) -> dict[str, float]:
  """`miou` and `pixel_accuracy`, shares in [0, 1].

  The mean is over the classes that are in the label maps or predicted; a
  class that is in neither is left out.

  Raises:
    ConfigError: if not one pixel was counted.
  """
  total = confusions.sum()
  if not total:
    raise config_lib.ConfigError(
        'every pixel of the label maps to measure on is ignored, as in splits '
        'whose labels are kept secret; choose another config.test_split')
  return {
      'miou': float(np.nanmean(class_ious(confusions))),
      'pixel_accuracy': float(np.trace(confusions) / total)}

"""IoU and cross-entropy, by hand and by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.evaluation import segmentation

IGNORED = segmentation.IGNORED


def test_confusions_and_iou_by_hand():
  label = np.array([[0, 0, 1], [1, 3, IGNORED]], np.uint8)
  prediction = np.array([[0, 1, 1], [1, 0, 2]], np.uint8)
  confusions = segmentation.count_confusions(prediction, label, 5)
  expected = np.zeros((5, 5), int)
  expected[0, 0] = expected[0, 1] = expected[3, 0] = 1
  expected[1, 1] = 2
  np.testing.assert_array_equal(confusions, expected)
  # Class 2 is predicted on an ignored pixel only, class 4 nowhere: left out.
  np.testing.assert_allclose(
      segmentation.class_ious(confusions),
      [1 / 3, 2 / 3, np.nan, 0, np.nan])
  assert segmentation.measure(confusions) == pytest.approx(
      {'miou': 1 / 3, 'pixel_accuracy': 3 / 5})


def test_a_class_that_is_only_predicted_counts():
  confusions = segmentation.count_confusions(
      np.array([1, 0]), np.array([0, 0]), 2)
  assert segmentation.measure(confusions)['miou'] == pytest.approx(0.25)


def test_all_ignored():
  confusions = segmentation.count_confusions(
      np.array([1]), np.array([IGNORED]), 2)
  with pytest.raises(config_lib.ConfigError, match='ignored'):
    segmentation.measure(confusions)


def test_cross_entropy_leaves_ignored_pixels_out():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
  label = rng.integers(0, 5, (2, 3, 4)).astype(np.uint8)
  label[0, :2] = IGNORED
  log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  expected = -sum(
      log_probs[*place, label[place]] for place in np.ndindex(label.shape)
      if label[place] != IGNORED)
  loss, count = segmentation.cross_entropy(
      jnp.asarray(logits), jnp.asarray(label))
  assert float(loss) == pytest.approx(expected, rel=1e-5)
  assert float(count) == 16
  grad = jax.grad(lambda x: segmentation.cross_entropy(
      x, jnp.asarray(label))[0])(jnp.asarray(logits))
  assert np.all(np.asarray(grad)[0, :2] == 0)
  assert np.all(np.abs(np.asarray(grad)[1]).sum(axis=-1) > 0)

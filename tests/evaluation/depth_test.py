"""The reverse Huber loss and the five metrics, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.evaluation import depth as depth_lib


def test_reverse_huber_by_hand():
  """The largest error is 5, so c is 1."""
  depth = jnp.asarray([[[2.0, 2.0], [2.0, 0.0]]])
  prediction = jnp.asarray([[[2.5, 7.0], [0.0, 9.0]]])
  loss, count = depth_lib.reverse_huber(prediction, depth)
  assert float(loss) == pytest.approx(0.5 + (25 + 1) / 2 + (4 + 1) / 2)
  assert float(count) == 3
  grad = jax.grad(lambda x: depth_lib.reverse_huber(x, depth)[0])(prediction)
  # A sign within c, and error / c outside; nothing where not measured.
  np.testing.assert_allclose(grad, [[[1, 5], [-2, 0]]], rtol=1e-6)


def test_reverse_huber_joins_smoothly():
  depth = jnp.full((1, 1, 1001), 10.0)
  prediction = depth + jnp.linspace(-5, 5, 1001).reshape(1, 1, -1)
  grad = jax.grad(lambda x: depth_lib.reverse_huber(x, depth)[0])(prediction)
  steps = np.abs(np.diff(np.asarray(grad)[0, 0]))
  # The one jump is that of the sign, between -1 and 1 at no error.
  assert np.sum(steps > 0.05) <= 2 and steps.max() <= 2


def test_exact_predictions_have_no_gradient_that_is_not_finite():
  depth = jnp.ones((1, 2, 2))
  loss, grad = jax.value_and_grad(
      lambda x: depth_lib.reverse_huber(x, depth)[0])(depth)
  assert float(loss) == 0 and np.all(np.isfinite(grad))


def test_the_largest_error_is_of_all_devices():
  rng = np.random.default_rng(0)
  depth = rng.uniform(1, 5, (4, 2, 3, 3)).astype(np.float32)
  prediction = depth + rng.normal(size=depth.shape).astype(np.float32)
  spread = jax.pmap(functools.partial(
      depth_lib.reverse_huber, axis_name='batch'), axis_name='batch')
  losses, counts = spread(prediction, depth)
  loss, count = depth_lib.reverse_huber(
      jnp.asarray(prediction.reshape(-1, 3, 3)),
      jnp.asarray(depth.reshape(-1, 3, 3)))
  assert float(losses.sum()) == pytest.approx(float(loss), rel=1e-5)
  assert float(counts.sum()) == float(count)


def test_metrics_by_hand():
  """Ratios 1, 1.5, 2, and one that is clipped; in two parts."""
  metrics = depth_lib.DepthMetrics()
  metrics.add(np.array([2.0, 3.0, 7.0]), np.array([2.0, 2.0, 0.0]))
  metrics.add(np.array([[2.0], [-1.0]]), np.array([[4.0], [1.0]]))
  found = metrics.compute()
  assert found == pytest.approx({
      'delta1': 1 / 4, 'delta2': 2 / 4, 'delta3': 2 / 4,
      'rms': np.sqrt((0 + 1 + 4 + 0.999**2) / 4),
      'rel': (0 + 0.5 + 0.5 + 0.999) / 4})


def test_nothing_measured():
  metrics = depth_lib.DepthMetrics()
  metrics.add(np.ones(3), np.zeros(3))
  with pytest.raises(config_lib.ConfigError, match='no pixel'):
    metrics.compute()

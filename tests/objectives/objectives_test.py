"""The losses against plain NumPy, and what they must be by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax import objectives
from byol_jax.networks.network import Outputs
from byol_jax.objectives import info_nce
from byol_jax.objectives import regression

OPTIONS = dict(step=0, index=None, key=None, axis_name=None)


def _outputs(seed, count=6, size=8):
  x = jax.random.normal(jax.random.key(seed), (4, count, size))
  online = tuple(Outputs(x[i], x[i], prediction=x[i]) for i in (0, 1))
  target = tuple(Outputs(x[i], x[i]) for i in (2, 3))
  return online, target


def _unit(x):
  x = np.asarray(x, np.float64)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_equal_directions_have_no_loss():
  online, _ = _outputs(0)
  target = tuple(
      Outputs(o.embedding, 3 * other.projection)
      for o, other in zip(online, online[::-1], strict=True))
  loss, _, _ = regression.objective(online, target, {}, **OPTIONS)
  assert float(loss) == pytest.approx(0, abs=1e-5)


def test_opposite_directions_have_the_largest():
  online, _ = _outputs(0)
  target = tuple(Outputs(o.embedding, -o.projection) for o in online[::-1])
  loss, _, _ = regression.objective(online, target, {}, **OPTIONS)
  assert float(loss) == pytest.approx(8, abs=1e-5)


def test_random_directions_have_about_four():
  loss, _, _ = regression.objective(
      *_outputs(1, count=512, size=256), {}, **OPTIONS)
  assert float(loss) == pytest.approx(4, abs=0.1)


def test_regression_is_the_sum_over_both_views():
  online, target = _outputs(2)
  loss, state, _ = regression.objective(online, target, {'kept': 1}, **OPTIONS)
  expected = sum(
      (2 - 2 * (_unit(online[i].prediction)
                * _unit(target[1 - i].projection)).sum(-1)).mean()
      for i in (0, 1))
  assert float(loss) == pytest.approx(expected, rel=1e-5)
  assert state == {'kept': 1}


def test_no_gradient_blows_up_at_zero():
  gradient = jax.grad(lambda x: regression.regression_loss(
      x, jnp.ones((1, 4))).sum())(jnp.zeros((1, 4)))
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize('normalization', ['layer', 'batch'])
def test_normalizations_have_unit_length_on_average(normalization):
  x = 3 * jax.random.normal(jax.random.key(0), (64, 32)) + 1
  rows = np.asarray(regression.normalize(x, normalization, None))
  assert np.square(rows).sum(-1).mean() == pytest.approx(1, rel=1e-3)
  axis = -1 if normalization == 'layer' else 0
  np.testing.assert_allclose(rows.mean(axis), 0, atol=1e-5)


def _interpolation(online, target, beta, temperature):
  """Eq. 8 with a minus, and 2 for each direction, in plain NumPy."""
  total = 0.0
  for i in (0, 1):
    query = _unit(online[i].prediction)
    same = query @ _unit(target[i].projection).T
    other = query @ _unit(target[1 - i].projection).T
    count = len(query)
    negatives = np.array([
        np.log(
            np.exp(np.delete(same[n], n) / temperature).sum()
            + np.exp(other[n] / temperature).sum())
        for n in range(count)])
    total += 2 - 2 * np.trace(other) / count
    total += beta * 2 * temperature * negatives.mean()
  return total


@pytest.mark.parametrize('beta', [0.1, 0.5, 1.0])
@pytest.mark.parametrize('temperature', [0.1, 1.0])
def test_interpolation_equals_the_formula(beta, temperature):
  online, target = _outputs(3)
  loss, _, _ = info_nce.objective(
      online, target, {}, beta=beta, temperature=temperature, **OPTIONS)
  assert float(loss) == pytest.approx(
      _interpolation(online, target, beta, temperature), rel=1e-5)


def test_interpolation_ends_at_byol():
  online, target = _outputs(4)
  expected, _, _ = regression.objective(online, target, {}, **OPTIONS)
  loss, _, _ = info_nce.objective(
      online, target, {}, beta=0.0, temperature=0.1, **OPTIONS)
  assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_interpolation_ends_at_simclr():
  """NT-Xent over 2B examples, times twice the temperature, plus 2 a view."""
  online, _ = _outputs(5)
  temperature, count = 0.2, 6
  z = np.concatenate([_unit(o.projection) for o in online])
  similarity = z @ z.T / temperature
  np.fill_diagonal(similarity, -np.inf)
  positive = similarity[
      np.arange(2 * count), np.roll(np.arange(2 * count), count)]
  nt_xent = (np.log(np.exp(similarity).sum(-1)) - positive).mean()
  loss, _, _ = info_nce.objective(
      online, online, {}, beta=1.0, temperature=temperature, **OPTIONS)
  assert float(loss) == pytest.approx(
      4 + 2 * (2 * temperature * nt_xent), rel=1e-5)


def test_config_chooses():
  config = config_lib.get_base_config()
  assert objectives.make_objective(config).func is regression.objective
  config.beta = 0.1
  assert objectives.make_objective(config).func is info_nce.objective

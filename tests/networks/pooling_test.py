"""Max-pooling on CPU is that of flax, with its gradient."""

from flax import linen as nn
import jax
import numpy as np
import pytest

from byol_jax.networks import convolution
from byol_jax.networks import pooling


@pytest.mark.parametrize('height', [7, 8])
@pytest.mark.parametrize('padding', ['SAME', [(1, 1), (1, 1)]])
def test_equals_flax(height, padding):
  images = jax.random.normal(jax.random.key(0), (2, height, height, 3))

  def ours(x):
    return pooling.max_pool(x, 3, 2, padding)

  def theirs(x):
    return nn.max_pool(x, (3, 3), (2, 2), padding=padding)

  (out, pull_back), (expected, pull_back_expected) = (
      jax.vjp(fn, images) for fn in (ours, theirs))
  np.testing.assert_array_equal(out, expected)
  weights = np.cos(np.arange(out.size, dtype=np.float32)).reshape(out.shape)
  np.testing.assert_allclose(
      *pull_back(weights), *pull_back_expected(weights), rtol=1e-6, atol=1e-6)


def test_is_left_to_xla_for_other_platforms():
  images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))

  def jaxpr():
    return str(jax.make_jaxpr(lambda x: pooling.max_pool(x, 3, 2, 'SAME'))(
        images))

  assert 'reduce_window' not in jaxpr()
  with convolution.for_any_platform():
    assert 'reduce_window' in jaxpr()

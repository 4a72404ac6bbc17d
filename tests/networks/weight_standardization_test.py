"""Weight standardisation: against NumPy, what it ignores, how often it runs."""

import collections

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.networks import network as network_lib
from byol_jax.networks import weight_standardization

EPSILON = 1e-5


def _reference(kernel, epsilon=EPSILON):
  flat = kernel.reshape(-1, kernel.shape[-1])
  centred = flat - flat.mean(axis=0)
  variance = (centred**2).mean(axis=0)  # biased
  return (centred / np.sqrt(np.maximum(variance, epsilon))).reshape(
      kernel.shape)


@pytest.mark.parametrize('shape', [(3, 3, 4, 5), (1, 1, 6, 2), (7, 3)])
def test_forward_and_gradient_are_those_of_numpy(shape):
  rng = np.random.default_rng(0)
  kernel, weight, direction = rng.normal(0.3, 1.0, (3, *shape))

  def loss(kernel):
    standard = weight_standardization.standardize(kernel, EPSILON)
    return jnp.sum(standard * jnp.float32(weight)), standard

  grad, standard = jax.grad(loss, has_aux=True)(jnp.float32(kernel))
  np.testing.assert_allclose(standard, _reference(kernel), atol=1e-5)
  expected = np.sum(weight * (
      _reference(kernel + 1e-5 * direction)
      - _reference(kernel - 1e-5 * direction))) / 2e-5
  np.testing.assert_allclose(np.sum(grad * direction), expected, rtol=1e-3)


def _layer(shape):
  if len(shape) == 4:
    return weight_standardization.StandardizedConv(
        shape[-1], shape[:2], use_bias=False), (2, 8, 8, shape[2])
  return weight_standardization.StandardizedDense(
      shape[-1], use_bias=False), (2, shape[0])


@pytest.mark.parametrize('shape', [(3, 3, 4, 5), (7, 3)])
def test_scale_and_shift_of_the_weights_change_nothing(shape):
  """Per output channel, in the layers themselves; the kernel is kept raw."""
  rng = np.random.default_rng(0)
  layer, input_shape = _layer(shape)
  x = jnp.float32(rng.normal(size=input_shape))
  params = layer.init(jax.random.key(0), x)['params']
  assert params['kernel'].shape == shape
  kernel = np.asarray(params['kernel'])
  np.testing.assert_allclose(
      kernel.reshape(-1, shape[-1]).std(axis=0),
      0.88 / np.sqrt(np.prod(shape[:-1])), rtol=0.7)  # not standardised
  moved = kernel * rng.uniform(0.5, 20, shape[-1]) + rng.normal(size=shape[-1])
  expected = layer.apply({'params': {'kernel': kernel}}, x)
  np.testing.assert_allclose(
      layer.apply({'params': {'kernel': jnp.float32(moved)}}, x), expected,
      rtol=1e-3, atol=1e-3)
  other = np.random.default_rng(1).normal(size=shape)
  assert not np.allclose(
      layer.apply({'params': {'kernel': jnp.float32(other)}}, x), expected,
      atol=0.1)


def test_a_channel_of_equal_weights_is_silent():
  kernel = jnp.full((3, 3, 2, 4), 0.7)
  standard, grad = jax.value_and_grad(lambda k: jnp.sum(jnp.abs(
      weight_standardization.standardize(k, EPSILON))))(kernel)
  assert float(standard) < 0.01  # of 72 weights; float32's rounding of a mean
  assert np.isfinite(grad).all()


def test_below_epsilon_a_kernel_is_left_small():
  kernel = 1e-4 * np.random.default_rng(0).normal(size=(50, 3))
  standard = weight_standardization.standardize(jnp.float32(kernel), EPSILON)
  np.testing.assert_allclose(standard, _reference(kernel), rtol=1e-3)
  assert float(jnp.std(standard)) < 0.1


def _roots(jaxpr, found):
  """Shapes that `rsqrt` is taken of, through all inner functions."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'rsqrt':
      found[eqn.outvars[0].aval.shape] += 1
    for inner in core.jaxprs_in_params(eqn.params):
      _roots(inner, found)
  return found


def test_kernels_are_standardised_once_for_both_views():
  """The roots of their variances have no axis of views; each is taken once."""
  config = config_lib.get_base_config()
  config.encoder, config.image_size = 'resnet10', 8
  config.resnet.update(width=1 / 4, stem='cifar')
  config.projector.update(hidden_size=32, output_size=8)
  config.predictor.hidden_size = 32
  config.encoder_norm = config.projector_norm = 'group_ws'
  config.predictor_norm = 'group_ws'
  config_lib.validate(config)
  network = network_lib.create_network(config, None)
  images = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)
  variables = jax.eval_shape(network.init, jax.random.key(0), images)
  jaxpr = jax.make_jaxpr(lambda v, x, y: network_lib.apply_views(
      network, v, (x, y), momentum=0.9))(variables, images, images)
  roots = _roots(jaxpr.jaxpr, collections.Counter())
  of_kernels = {
      shape: n for shape, n in roots.items()
      if all(size == 1 for size in shape[:-1])}
  kernels = [
      leaf for path, leaf in jax.tree_util.tree_leaves_with_path(
          variables['params'])
      if path[-1].key == 'kernel' and path[-2].key != 'dense2']
  assert len(kernels) == 14  # 12 convolutions, and one dense layer a head
  assert sum(of_kernels.values()) == len(kernels)
  # The groups' own roots are per view and example.
  assert any(shape[:2] == (2, 4) for shape in roots)

"""Weight standardisation: against NumPy, what it ignores, how often it runs."""

import collections

import chex
from flax import linen as nn
import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.networks import network as network_lib
from byol_jax.networks import weight_standardization
from byol_jax.training import optimizers
from byol_jax.training import state as state_lib
from byol_jax.training import step as step_lib

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


def _roots(jaxpr, found, times=1):
  """Shapes that `rsqrt` is taken of, through all inner functions and loops."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'rsqrt':
      found[eqn.outvars[0].aval.shape] += times
    rounds = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
    for inner in core.jaxprs_in_params(eqn.params):
      _roots(inner, found, times * rounds)
  return found


def _count_of_kernels(jaxpr):
  """How many roots of kernels' variances there are, which have no batch."""
  roots = _roots(jaxpr.jaxpr, collections.Counter())
  # The groups' own roots are per view and example.
  assert any(shape[:1] == (2,) for shape in roots)
  return sum(
      n for shape, n in roots.items() if all(size == 1 for size in shape[:-1]))


@pytest.fixture(name='config')
def _config():
  config = config_lib.get_base_config()
  config.encoder, config.image_size = 'resnet10', 8
  config.resnet.update(width=1 / 4, stem='cifar')
  config.projector.update(hidden_size=32, output_size=8)
  config.predictor.hidden_size = 32
  config.encoder_norm = config.projector_norm = 'group_ws'
  config.predictor_norm = 'group_ws'
  config.batch_size = 8
  config_rules.validate(config)
  return config


def test_kernels_are_standardised_once_for_both_views(config):
  """12 convolutions, and one dense layer a head."""
  network = network_lib.create_network(config, None)
  images = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)
  variables = jax.eval_shape(network.init, jax.random.key(0), images)
  assert _count_of_kernels(jax.make_jaxpr(
      lambda v, x, y: network_lib.apply_views(
          network, v, (x, y), momentum=0.9))(variables, images, images)) == 14


@pytest.mark.parametrize('accumulation_steps', [1, 4])
def test_a_step_standardises_each_network_once(config, accumulation_steps):
  """Gradient included, whatever the number of micro-batches."""
  config.accumulation_steps = accumulation_steps
  network = network_lib.create_network(config, None)
  tx = optimizers.create_optimizer(config, lambda _: 0.1)
  state = jax.eval_shape(
      lambda: state_lib.create_train_state(network, tx, config))
  train_step = step_lib.make_train_step(
      config, network, tx, lambda _: jnp.float32(0.1), total_steps=10)
  image = jax.ShapeDtypeStruct((8, 8, 8, 3), jnp.float32)
  batch = {'views': (image, image),
           'index': jax.ShapeDtypeStruct((8,), jnp.int32)}
  jaxpr = jax.make_jaxpr(train_step)(state, batch)
  assert _count_of_kernels(jaxpr) == 14 + 13  # a target does not predict


class _Layers(nn.Module):
  """What a norm follows, and what none does."""

  @nn.compact
  def __call__(self, x):
    x = weight_standardization.StandardizedConv(4, (3, 3), name='conv1')(x)
    x = nn.GroupNorm(2, name='norm1')(x).mean(axis=(1, 2))
    x = weight_standardization.StandardizedDense(8, name='dense2')(x)
    x = nn.GroupNorm(2, name='norm2')(x)
    return nn.Dense(3, name='dense3')(x)


def test_standardised_beforehand_is_the_same_network():
  """In value and gradient."""
  layers = _Layers()
  x = jax.random.normal(jax.random.key(1), (4, 5, 5, 3))
  params = layers.init(jax.random.key(0), x)['params']
  assert set(params['conv1']) == {'kernel', 'bias'}
  rest, kernels = weight_standardization.split(params, EPSILON)
  assert set(kernels) == {'conv1', 'dense2'}
  assert set(rest['conv1']) == {'bias'}
  assert set(rest['dense3']) == {'kernel', 'bias'}

  def loss(params, beforehand):
    variables = {'params': params}
    if beforehand:
      rest, kernels = weight_standardization.split(params, EPSILON)
      variables = {'params': rest, 'standardized': kernels}
    y = layers.apply(variables, x)
    return jnp.sum(y * jnp.roll(y, 1, axis=0))

  grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  chex.assert_trees_all_close(
      grad(params, True), grad(params, False), rtol=1e-4, atol=1e-5)


class _Users(nn.Module):
  """Names as ours, layers of its own."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(4, (3, 3), name='conv1')(x)
    return nn.GroupNorm(2, name='norm1')(x).mean(axis=(1, 2))


def test_a_users_own_kernels_are_left_alone(config):
  network = network_lib.create_network(config, None, _Users())
  x = jnp.zeros((4, 8, 8, 3))
  params = network.init(jax.random.key(0), x)['params']
  variables = network_lib.to_variables(network, config, params)
  assert variables['params']['encoder'] is params['encoder']
  assert set(variables['standardized']) == {'projector', 'predictor'}
  network.apply(variables, x)

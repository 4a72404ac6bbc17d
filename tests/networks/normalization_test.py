"""Every normalisation against NumPy, over devices, and apart from the batch."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.networks import affine_init
from byol_jax.networks import network as network_lib
from byol_jax.networks import normalization

CHANNELS = 8
GROUPS = 4
EPSILON = 1e-5
SHAPES = {'encoder': (8, 3, 5, CHANNELS), 'projector': (8, CHANNELS)}
NORMS = [norm for norm in config_rules.NORMS if norm != 'affine_init']


def _create(norm, part, axis_name=None):
  config = config_lib.get_base_config()
  config[f'{part}_norm'] = norm
  config.norm_groups = GROUPS
  return normalization.create_normalization(
      config, part, axis_name=axis_name).norm(name='norm')


def _inputs(part, seed=0):
  """A batch away from zero, unlike from channel to channel."""
  rng = np.random.default_rng(seed)
  x = rng.normal(1.0, 2.0, SHAPES[part]) * rng.uniform(0.5, 2.0, CHANNELS)
  scale, bias = rng.normal(1.0, 0.3, (2, CHANNELS))
  return x, scale, bias


def _reference(norm, x, scale, bias, num_devices=1):
  """What each normalisation is, in float64."""
  if norm == 'none':
    return x
  if norm == 'batch_local' and num_devices > 1:
    return np.concatenate([
        _reference('batch', share, scale, bias)
        for share in np.split(x, num_devices)])
  places = tuple(range(1, x.ndim - 1))
  if norm in ('batch', 'batch_local'):
    parts, axes = x, (0, *places)
  elif norm == 'instance' and places:
    parts, axes = x, places
  else:
    count = GROUPS if norm == 'group_ws' else 1
    parts = x.reshape(*x.shape[:-1], count, -1)
    axes = (*places, -1)
  mean = parts.mean(axis=axes, keepdims=True)
  variance = ((parts - mean)**2).mean(axis=axes, keepdims=True)
  normal = (parts - mean) / np.sqrt(variance + EPSILON)
  return normal.reshape(x.shape) * scale + bias


def _variables(norm, module, x, scale, bias):
  variables = module.init(jax.random.key(0), x, train=False)
  if norm == 'none':
    assert not variables
    return variables
  assert variables['params']['scale'].shape == (CHANNELS,)
  return variables | {'params': {
      'scale': jnp.float32(scale), 'bias': jnp.float32(bias)}}


def _apply(module, variables, x):
  return module.apply(variables, x, train=True, mutable=['batch_stats'])


@pytest.mark.parametrize('part', SHAPES)
@pytest.mark.parametrize('norm', NORMS)
def test_forward_and_gradient_are_those_of_numpy(norm, part):
  """Gradients by x, scale and offset, along a random direction of each."""
  inputs = _inputs(part)
  module = _create(norm, part)
  x, scale, bias = map(jnp.float32, inputs)
  variables = _variables(norm, module, x, scale, bias)
  weight = np.random.default_rng(1).normal(size=x.shape)

  def loss(variables, x):
    y, _ = _apply(module, variables, x)
    return jnp.sum(y * jnp.float32(weight)), y

  (by_variables, by_x), y = jax.jit(jax.grad(
      loss, argnums=(0, 1), has_aux=True))(variables, x)
  np.testing.assert_allclose(
      y, _reference(norm, *inputs), rtol=1e-4, atol=1e-4)

  params = by_variables.get('params', {})
  grads = (by_x, params.get('scale', np.zeros(CHANNELS)),
           params.get('bias', np.zeros(CHANNELS)))
  rng = np.random.default_rng(2)
  for i, grad in enumerate(grads):
    direction = rng.normal(size=inputs[i].shape)

    def moved(step, i=i, direction=direction):
      at = [v + step * direction if n == i else v
            for n, v in enumerate(inputs)]
      return np.sum(weight * _reference(norm, *at))

    expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
    found = np.sum(np.asarray(grad, np.float64) * direction)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize('norm', ['batch', 'group_ws', 'layer', 'instance'])
def test_statistics_are_float32_in_bfloat16(norm):
  """Around 50, a mean of bfloat16 would be off by an eighth."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(50, 1, (4, 16, 16, CHANNELS)), jnp.bfloat16)
  config = config_lib.get_base_config()
  config.encoder_norm, config.norm_groups = norm, GROUPS
  module = normalization.create_normalization(
      config, 'encoder', axis_name=None, dtype=jnp.bfloat16).norm(name='norm')
  # Flax's choice of the type of a result promotes on its way.
  with jax.numpy_dtype_promotion('standard'):
    variables = module.init(jax.random.key(0), x, train=True)
    y, _ = _apply(module, variables, x)
  assert y.dtype == jnp.bfloat16
  expected = _reference(
      norm, np.asarray(x, np.float64), np.ones(CHANNELS), np.zeros(CHANNELS))
  np.testing.assert_allclose(
      np.asarray(y, np.float64), expected, atol=0.03)


@pytest.mark.parametrize('norm', NORMS)
def test_one_device_against_four(norm):
  """All are equal but `batch_local`, which is what it is for."""
  part = 'encoder'
  inputs = _inputs(part)
  x, scale, bias = map(jnp.float32, inputs)
  weight = jnp.float32(np.random.default_rng(1).normal(size=x.shape))
  variables = _variables(norm, _create(norm, part), x, scale, bias)
  spread = _create(norm, part, 'batch')

  def grad(variables, x, weight):
    def loss(x):
      y, updated = _apply(spread, variables, x)
      return jnp.sum(y * weight), (y, updated)
    return jax.grad(loss, has_aux=True)(x)

  shares = [v.reshape(4, 2, *v.shape[1:]) for v in (x, weight)]
  by_x, (y, updated) = jax.pmap(
      grad, axis_name='batch', in_axes=(None, 0, 0))(variables, *shares)
  by_x, y = (np.reshape(v, x.shape) for v in (by_x, y))

  expected = _reference(norm, *inputs, num_devices=4)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
  direction = np.random.default_rng(2).normal(size=x.shape)

  def moved(step):
    return np.sum(np.asarray(weight, np.float64) * _reference(
        norm, inputs[0] + step * direction, *inputs[1:], num_devices=4))

  np.testing.assert_allclose(
      np.sum(by_x * direction), (moved(1e-5) - moved(-1e-5)) / 2e-5,
      rtol=2e-3, atol=2e-3)
  whole = _reference(norm, *inputs)
  assert np.allclose(expected, whole, atol=1e-3) == (norm != 'batch_local')
  # Whatever they normalise by, all devices keep the same running statistics.
  for running in jax.tree.leaves(updated):
    np.testing.assert_array_equal(running, np.stack([running[0]] * 4))


def test_local_running_statistics_are_the_mean_over_devices():
  x, _, _ = _inputs('encoder')
  module = _create('batch_local', 'encoder', 'batch')
  variables = module.init(jax.random.key(0), jnp.float32(x), train=False)
  _, updated = jax.pmap(
      functools.partial(_apply, module), axis_name='batch',
      in_axes=(None, 0))(variables, jnp.float32(x).reshape(4, 2, *x.shape[1:]))
  shares = np.split(x, 4)
  momentum = config_lib.get_base_config().batch_norm_momentum
  for name, start, statistic in (('mean', 0.0, np.mean), ('var', 1.0, np.var)):
    expected = momentum * start + (1 - momentum) * np.mean(
        [statistic(share, axis=(0, 1, 2)) for share in shares], axis=0)
    np.testing.assert_allclose(
        updated['batch_stats'][name][0], expected, rtol=1e-4)


@pytest.mark.parametrize('make_norm', [
    lambda: nn.BatchNorm(use_running_average=False, momentum=0.9),
    lambda: functools.partial(normalization.BatchNorm(
        momentum=0.9, epsilon=EPSILON), train=True)])
def test_a_users_batch_normalisation_spans_all_devices(make_norm):
  """Flax's own and ours, in an encoder that was written for one device."""
  class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
      return make_norm()(x)

  x, _, _ = _inputs('encoder')
  encoder = Encoder()
  variables = encoder.init(jax.random.key(0), jnp.float32(x))

  def apply(x):
    with normalization.synchronized('batch'):
      return encoder.apply(variables, x, mutable=['batch_stats'])

  y, updated = jax.pmap(apply, axis_name='batch')(
      jnp.float32(x).reshape(4, 2, *x.shape[1:]))
  np.testing.assert_allclose(
      y.reshape(x.shape),
      _reference('batch', x, np.ones(CHANNELS), np.zeros(CHANNELS)),
      rtol=1e-4, atol=1e-4)
  for running in jax.tree.leaves(updated):
    np.testing.assert_array_equal(running, np.stack([running[0]] * 4))


def _config(norm):
  config = config_lib.get_base_config()
  config.encoder, config.image_size = 'resnet10', 16
  config.resnet.update(width=1 / 16, stem='cifar')
  config.projector.update(hidden_size=16, output_size=8)
  config.predictor.hidden_size = 16
  config.norm_groups = 4
  config.encoder_norm = config.projector_norm = config.predictor_norm = norm
  return config


def _images(count, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.random((count, 16, 16, 3), np.float32)
  # A colour cast of its own, so that examples differ in their statistics.
  return jnp.asarray(0.5 * images + 0.5 * rng.random((count, 1, 1, 3),
                                                     np.float32))


@pytest.mark.parametrize('norm', [
    'group_ws', 'layer', 'instance', 'none', 'affine_init', 'batch'])
def test_an_example_does_not_depend_on_its_batch(norm):
  """In training too: no statistics of the batch, all through the network."""
  network = network_lib.create_network(_config(norm), None)
  images = _images(8)
  variables = jax.jit(network.init)(jax.random.key(0), images)
  assert ('batch_stats' in variables) == (norm == 'batch')
  apply = jax.jit(functools.partial(
      network.apply, train=True, mutable=['batch_stats']))
  whole, _ = apply(variables, images)
  other, _ = apply(variables, jnp.concatenate([images[:1], _images(7, 1)]))
  independent = all(
      np.allclose(getattr(whole, name)[0], getattr(other, name)[0],
                  rtol=1e-4, atol=1e-5)
      for name in ('embedding', 'projection', 'prediction'))
  assert independent == (norm != 'batch')
  assert float(jnp.std(whole.prediction, axis=0).mean()) > 1e-4


def test_affine_layers_start_as_batch_normalisation_would():
  """Zero mean and unit variance on the first batch, layer after layer."""
  network = network_lib.create_network(_config('affine_init'), None)
  images = _images(32)
  variables = jax.jit(network.init)(jax.random.key(0), images)
  _, seen = network.apply(
      variables, images, mutable=['intermediates'],
      capture_intermediates=lambda module, _: isinstance(
          module, affine_init.Affine))
  outputs = {
      '/'.join(key.key for key in path[1:-2]): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(seen)}
  assert len(outputs) == 14
  for name, y in outputs.items():
    y = np.asarray(y).reshape(-1, y.shape[-1])
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-4, err_msg=name)
    # The last one of a residual branch starts at zero.
    last = name.startswith('encoder/group') and name.endswith('norm2')
    np.testing.assert_allclose(
        y.std(axis=0), 0 if last else 1, atol=5e-3, err_msg=name)


def test_a_dead_channel_is_not_blown_up_by_affine_init():
  """Constant on the first batch, it is itself, centred, on later ones."""
  x, _, _ = _inputs('encoder')
  x[..., 3] = 7.0
  module = affine_init.Affine(
      epsilon=EPSILON, scale_init=nn.initializers.constant(0.5))
  variables = module.init(jax.random.key(0), jnp.float32(x), train=True)
  scale = variables['params']['scale']
  assert scale[3] == 0.5
  np.testing.assert_allclose(variables['params']['bias'][3], -3.5, rtol=1e-5)
  np.testing.assert_allclose(
      scale[2], 0.5 / np.sqrt(x[..., 2].var() + EPSILON), rtol=1e-5)
  y = module.apply(variables, jnp.float32(x + 1), train=True)
  np.testing.assert_allclose(y[..., 3], 0.5, rtol=1e-5)


def test_affine_init_takes_float32_statistics_of_bfloat16():
  """Around 50, where a mean of bfloat16 would be off by an eighth."""
  x = jnp.asarray(np.random.default_rng(0).normal(
      50, 1, (4, 16, 16, CHANNELS)), jnp.bfloat16)
  module = affine_init.Affine(epsilon=EPSILON, dtype=jnp.bfloat16)
  with jax.numpy_dtype_promotion('standard'):
    variables = module.init(jax.random.key(0), x, train=True)
    y = module.apply(variables, x, train=True)
  assert y.dtype == jnp.bfloat16
  wide = np.asarray(x, np.float64)
  sigma = np.sqrt(wide.var(axis=(0, 1, 2)) + EPSILON)
  params = variables['params']
  np.testing.assert_allclose(params['scale'], 1 / sigma, rtol=1e-4)
  np.testing.assert_allclose(
      params['bias'], -wide.mean(axis=(0, 1, 2)) / sigma, rtol=1e-4)
  assert params['scale'].dtype == jnp.float32


def test_affine_init_knows_its_formula():
  """gamma / sigma and -gamma mu / sigma; without the batch, wrong ones."""
  x, _, _ = _inputs('encoder')
  gamma = 0.5
  module = affine_init.Affine(
      epsilon=EPSILON, scale_init=nn.initializers.constant(gamma))
  params = module.init(jax.random.key(0), jnp.float32(x), train=True)['params']
  sigma = np.sqrt(x.var(axis=(0, 1, 2)) + EPSILON)
  np.testing.assert_allclose(params['scale'], gamma / sigma, rtol=1e-5)
  np.testing.assert_allclose(
      params['bias'], -gamma * x.mean(axis=(0, 1, 2)) / sigma, rtol=1e-4)


@pytest.mark.parametrize('norm', ['batch', 'batch_local'])
def test_other_numbers_of_devices_later(norm):
  """Of shares of one shape: what was traced for four does not do for two."""
  module = _create(norm, 'encoder', axis_name='i')
  x, scale, bias = _inputs('encoder')
  variables = _variables(norm, module, jnp.float32(x), scale, bias)
  for count in (4, 2, 1, 4):
    shares = x[:2 * count]
    apply = jax.pmap(
        functools.partial(_apply, module), axis_name='i', in_axes=(None, 0),
        devices=jax.devices()[:count])
    result, updates = apply(
        variables, jnp.float32(shares.reshape(count, 2, *x.shape[1:])))
    np.testing.assert_allclose(
        np.asarray(result).reshape(shares.shape),
        _reference(norm, shares, scale, bias, num_devices=count),
        rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        updates['batch_stats']['mean'][0],
        0.1 * shares.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)

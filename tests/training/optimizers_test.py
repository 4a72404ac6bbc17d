"""LARS against the original's, and which parameters it leaves alone."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax import config as config_lib
from byol_jax.interchange import deepmind
from byol_jax.networks import network as network_lib
from byol_jax.training import optimizers

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / 'golden' / 'lars.npz')


def _tree(prefix):
  """Golden tensors under `prefix`, by the path that we give them."""
  tree = {}
  for name in GOLDEN.files:
    if name.startswith(prefix + '/'):
      module, key = name.removeprefix(prefix + '/').rsplit('/', 1)
      value = GOLDEN[name]
      if key in ('scale', 'offset'):
        value = value.reshape(-1)
      tree['/'.join(deepmind.parameter_path(module, key))] = value
  assert tree
  return jax.tree.map(jnp.asarray, tree)


@pytest.mark.parametrize('tag', ['wd1e-6', 'wd1e-2', 'wd0'])
def test_lars_equals_the_original(tag):
  """Six updates, with zero weights, zero scales and zero gradients in them."""
  rates = jnp.asarray(GOLDEN['learning_rates'], jnp.float32)
  tx = optimizers.lars(
      lambda count: rates[count], weight_decay=float(tag.removeprefix('wd')),
      momentum=0.9, trust_coefficient=1e-3)
  params = _tree('params0')
  state = tx.init(params)
  update = jax.jit(tx.update)
  for i in range(1, 7):
    updates, state = update(_tree(f'grads{i}'), state, params)
    params = optax.apply_updates(params, updates)
    for name, expected in _tree(f'{tag}/params{i}').items():
      np.testing.assert_allclose(
          params[name], expected, rtol=2e-6, atol=2e-7, err_msg=f'{i} {name}')
    momentum = optax.tree.get(state, 'trace')
    for name, expected in _tree(f'{tag}/momentum{i}').items():
      np.testing.assert_allclose(
          momentum[name], expected, rtol=5e-6, atol=2e-7,
          err_msg=f'{i} {name}')


@pytest.mark.parametrize('encoder', [
    'resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152',
    'resnet200'])
@pytest.mark.parametrize('shortcut', ['shape', 'group'])
def test_only_kernels_are_decayed(encoder, shortcut):
  """Leaf by leaf, heads and probe included."""
  config = config_lib.get_base_config()
  config.encoder = encoder
  config.resnet.projection_shortcut = shortcut
  network = network_lib.create_network(config, 10)
  params = jax.eval_shape(
      network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
  assert set(params) == {'encoder', 'projector', 'predictor', 'probe'}
  decayed = jax.tree_util.tree_leaves_with_path(optimizers.is_decayed(params))
  names = set()
  for path, is_decayed in decayed:
    name = path[-1].key
    names.add(name)
    assert is_decayed == (name == 'kernel'), jax.tree_util.keystr(path)
  assert names == {'kernel', 'bias', 'scale'}


def test_predictor_learning_rate():
  config = config_lib.get_base_config()
  config.optimizer = 'sgd'
  config.predictor_learning_rate_multiplier = 10.0
  tx = optimizers.create_optimizer(config, lambda _: 0.1)
  params = {
      'encoder': {'bias': jnp.zeros(2)}, 'predictor': {'bias': jnp.zeros(2)}}
  updates, _ = tx.update(
      jax.tree.map(jnp.ones_like, params), tx.init(params), params)
  np.testing.assert_allclose(updates['encoder']['bias'], -0.1, rtol=1e-6)
  np.testing.assert_allclose(updates['predictor']['bias'], -1.0, rtol=1e-6)


@pytest.mark.parametrize('learning_rate', [0.0, 0.5, 8.0])
def test_clipped_trust_ratio(learning_rate):
  """The rate of a kernel is min(eta |p| / |g|, learning rate)."""
  tx = optimizers.lars(
      lambda _: jnp.float32(learning_rate), weight_decay=0.0, momentum=0.0,
      trust_coefficient=0.02, clip_trust_ratio=True)
  params = {'kernel': jnp.full((3, 4), 50.0), 'bias': jnp.ones(4)}
  grads = {'kernel': jnp.full((3, 4), 0.25), 'bias': jnp.ones(4)}
  updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
  # |p| / |g| is 200, so the ratio is 4.
  rate = min(4.0, learning_rate)
  np.testing.assert_allclose(updates['kernel'], -rate * 0.25, rtol=1e-5)
  np.testing.assert_allclose(updates['bias'], -learning_rate, rtol=1e-6)

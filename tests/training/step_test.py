"""What is true of the method, whatever the numbers."""

import functools
import re

import chex
from flax import linen as nn
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax.augmentation import draws
from byol_jax.augmentation import photometric
from byol_jax.networks import network as network_lib
from byol_jax.training import devices
from byol_jax.training import schedules
from byol_jax.training import state as state_lib
from byol_jax.training import step as step_lib


def _batch(config, seed=0):
  rng = np.random.default_rng(seed)
  size, count = config.image_size, config.batch_size
  views = rng.random((2, count, size, size, 3), np.float32)
  return {
      'views': tuple(views), 'index': np.arange(count, dtype=np.int32),
      'label': rng.integers(0, 10, count, dtype=np.int32)}


@pytest.fixture(autouse=True)
def _encoder(tiny_encoder, monkeypatch):
  """The method's truths do not depend on the encoder; compiling time does."""
  monkeypatch.setattr(
      network_lib, 'create_network', functools.partial(
          network_lib.create_network, encoder=tiny_encoder))


def _make(config, axis_name=devices.AXIS_NAME, tx=None):
  """Returns the step and the state it starts from."""
  network = network_lib.create_network(config, 10, axis_name=axis_name)
  learning_rate_fn = schedules.make_learning_rate_fn(
      base_learning_rate=config.base_learning_rate,
      batch_size=config.batch_size, warmup_steps=0, total_steps=10)
  tx = tx or optax.sgd(0.1, momentum=0.9)
  train_step = step_lib.make_train_step(
      config, network, tx, learning_rate_fn, total_steps=10)
  return train_step, state_lib.create_train_state(network, tx, config)


def _run(config, num_devices, steps=3, tx=None):
  """Runs on the first `num_devices` devices; the same global batches."""
  train_step, state = _make(config, tx=tx)
  p_train_step = jax.pmap(
      train_step, axis_name=devices.AXIS_NAME, in_axes=(None, 0),
      out_axes=(None, None), devices=jax.devices()[:num_devices])
  for i in range(steps):
    batch = jax.tree.map(
        lambda x: x.reshape(num_devices, -1, *x.shape[1:]),
        _batch(config, seed=i))
    state, metrics = p_train_step(state, batch)
  return state, metrics


VARIANTS = {
    'byol': {},
    'simclr': dict(
        target='online', beta=1.0, predictor=dict(depth=0),
        batch_statistics='joined'),
    'accumulated': dict(beta=0.5, accumulation_steps=2),
    'batch_loss': dict(loss_normalization='batch', target='stop_gradient'),
}


@pytest.mark.parametrize('variant', VARIANTS)
def test_one_device_equals_two_and_four(tiny_config, variant):
  config = tiny_config
  for name, value in VARIANTS[variant].items():
    if isinstance(value, dict):
      config[name].update(value)
    else:
      config[name] = value
  one, one_metrics = _run(config, 1)
  for num_devices in (2, 4) if variant == 'byol' else (4,):
    many, many_metrics = _run(config, num_devices)
    # Sums over the batch are taken in another order; ReLUs amplify that.
    chex.assert_trees_all_close(one_metrics, many_metrics, rtol=1e-3)
    chex.assert_trees_all_close(one, many, atol=2e-4, rtol=2e-3)
  assert np.isfinite(list(map(float, one_metrics.values()))).all()


@pytest.mark.parametrize('norm', ['batch', 'batch_local'])
def test_all_devices_hold_the_same_state(norm, tiny_config):
  """Even where each normalises by its own share of the batch."""
  tiny_config.projector_norm = tiny_config.predictor_norm = norm
  train_step, state = _make(tiny_config)
  p_train_step = devices.pmap_train_step(train_step)
  state = devices.replicate(state)
  for i in range(3):
    state, _ = p_train_step(
        state, devices.shard(_batch(tiny_config, seed=i)))
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    first, *others = [np.asarray(s.data) for s in leaf.addressable_shards]
    assert len(others) == 3
    for other in others:
      np.testing.assert_array_equal(
          first, other, err_msg=jax.tree_util.keystr(path))


def test_state_is_donated_and_compiled_once(tiny_config):
  train_step, state = _make(tiny_config)

  @chex.assert_max_traces(n=1)
  def traced_once(state, batch):
    return train_step(state, batch)

  p_train_step = devices.pmap_train_step(traced_once)
  first = state = devices.replicate(state)
  for i in range(3):
    state, _ = p_train_step(
        state, devices.shard(_batch(tiny_config, seed=i)))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))


def test_gradient_does_not_reach_the_target(tiny_config):
  """The loss depends on the target's weights, but not by gradient."""
  train_step, state = _make(tiny_config, axis_name=None)
  batch = _batch(tiny_config)

  def loss(online_params, target_params):
    _, metrics = train_step(
        state.replace(
            online_params=online_params, target_params=target_params), batch)
    return metrics['train/loss']

  online, target = jax.jit(jax.grad(loss, argnums=(0, 1)))(
      state.online_params, state.target_params)
  assert float(optax.tree.norm(online['encoder'])) > 1e-3
  assert float(optax.tree.norm(target)) == 0.0
  # The probe watches: the loss of the representation does not move it.
  assert float(optax.tree.norm(online['probe'])) == 0.0
  moved = jax.tree.map(lambda x: x * 1.5 + 0.1, state.target_params)
  assert loss(state.online_params, moved) != loss(
      state.online_params, state.target_params)


def test_probe_does_not_move_the_encoder(tiny_config):
  config = tiny_config
  train_step, state = _make(config, axis_name=None)
  batch = _batch(config)
  with_probe, _ = jax.jit(train_step)(state, batch)
  config.online_probe = False
  train_step, bare = _make(config, axis_name=None)
  params = {k: v for k, v in state.online_params.items() if k != 'probe'}
  bare = bare.replace(
      online_params=params, target_params=state.target_params)
  without, _ = jax.jit(train_step)(bare, batch)
  chex.assert_trees_all_close(
      with_probe.online_params['encoder'], without.online_params['encoder'],
      atol=1e-6)


@pytest.mark.parametrize('base_tau', [0.0, 0.9, 1.0])
def test_target_moves_by_tau(tiny_config, base_tau):
  tiny_config.base_tau = base_tau
  tiny_config.tau_schedule = 'constant'
  train_step, state = _make(tiny_config, axis_name=None)
  new, metrics = jax.jit(train_step)(state, _batch(tiny_config))
  assert float(metrics['train/tau']) == pytest.approx(base_tau)
  chex.assert_trees_all_close(
      new.target_params,
      jax.tree.map(
          lambda old, online: base_tau * old + (1 - base_tau) * online,
          state.target_params, state_lib.target_parts(new.online_params)),
      atol=1e-6)
  online = ravel_pytree(state_lib.target_parts(new.online_params))[0]
  difference = ravel_pytree(new.target_params)[0] - online
  assert float(metrics['train/target_distance']) == pytest.approx(
      np.linalg.norm(difference) / np.linalg.norm(online), rel=1e-5)
  assert set(new.target_params) == {'encoder', 'projector'}


@pytest.mark.parametrize('target', ['stop_gradient', 'online'])
def test_without_ema_there_is_no_second_network(tiny_config, target):
  tiny_config.target = target
  tiny_config.predictor.depth = 0
  train_step, state = _make(tiny_config, axis_name=None)
  new, metrics = jax.jit(train_step)(state, _batch(tiny_config))
  assert new.target_params == {} and new.target_batch_stats == {}
  assert 'train/target_distance' not in metrics
  # Without a predictor a prediction is the projection.
  assert metrics['train/prediction_std'] == metrics['train/projection_std']


def test_tau_zero_equals_stop_gradient(tiny_config):
  """Both regress the online network's own projection (paper, Table 5a)."""
  config = tiny_config
  config.target_init = 'copy'
  config.base_tau, config.tau_schedule = 0.0, 'constant'
  ema, _ = _run(config, 1)
  config.target = 'stop_gradient'
  stopped, _ = _run(config, 1)
  chex.assert_trees_all_close(
      ema.online_params, stopped.online_params, atol=1e-4)


def test_accumulation_averages_gradients_of_micro_batches(tiny_config):
  """One update from N micro-batches, each with its own batch statistics."""
  config = tiny_config
  config.accumulation_steps = 4
  train_step, state = _make(config, axis_name=None, tx=optax.sgd(1.0))
  batch = _batch(config)
  together, _ = jax.jit(train_step)(state, batch)
  config.accumulation_steps = 1
  train_step, _ = _make(config, axis_name=None, tx=optax.sgd(1.0))
  train_step = jax.jit(train_step)
  alone, carry = [], state
  for i in range(4):
    micro = jax.tree.map(lambda x, i=i: x[i::4], batch)
    after, _ = train_step(carry, micro)
    alone.append(after.online_params)
    # Batch statistics go on; parameters and step stay.
    carry = state.replace(
        online_batch_stats=after.online_batch_stats,
        target_batch_stats=after.target_batch_stats)
  mean = jax.tree.map(lambda *x: sum(x) / 4, *alone)
  chex.assert_trees_all_close(together.online_params, mean, atol=1e-5)
  chex.assert_trees_all_close(
      together.online_batch_stats, carry.online_batch_stats, atol=1e-5)
  assert int(together.step) == 1


def test_views_pass_as_if_one_after_the_other(tiny_config):
  """One vmapped call leaves the statistics of two calls in order."""
  config = tiny_config
  network = network_lib.create_network(config, None)
  views = _batch(config)['views']
  variables = network.init(jax.random.key(0), views[0])
  outputs, stats = network_lib.apply_views(
      network, variables, views, momentum=config.batch_norm_momentum)
  for i, view in enumerate(views):
    expected, updated = network.apply(
        variables, view, train=True, mutable=['batch_stats'])
    variables = variables | updated
    chex.assert_trees_all_close(outputs[i], expected, atol=1e-5)
  chex.assert_trees_all_close(stats, variables['batch_stats'], atol=1e-5)


def test_collapse_shows_in_the_metrics(tiny_config):
  train_step, state = _make(tiny_config, axis_name=None)
  train_step = jax.jit(train_step)
  batch = _batch(tiny_config)
  _, healthy = train_step(state, batch)
  # A scale of 0 in the last normalisation makes all projections equal.
  projector = state.online_params['projector']
  projector = projector | {'norm1': {
      'scale': jnp.zeros(16), 'bias': jnp.ones(16)}}
  _, collapsed = train_step(
      state.replace(online_params=state.online_params | {
          'projector': projector}), batch)
  assert healthy['train/projection_std'] > 0.3
  assert collapsed['train/projection_std'] < 1e-3
  assert collapsed['train/prediction_std'] < 1e-3 < healthy[
      'train/prediction_std']
  assert collapsed['train/embedding_std'] > 0.1


def test_bfloat16_keeps_parameters_and_statistics_in_float32(
    tiny_config, monkeypatch):
  """The encoder computes in bfloat16; state, heads and loss do not."""
  # Flax's normalisation subtracts a float32 mean from what is bfloat16.
  with jax.numpy_dtype_promotion('standard'):
    _check_bfloat16(tiny_config, monkeypatch)


def _check_bfloat16(tiny_config, monkeypatch):
  monkeypatch.undo()  # a real ResNet: a user's encoder has its own dtype
  tiny_config.compute_dtype = 'bfloat16'
  network = network_lib.create_network(tiny_config, 10)
  variables = jax.eval_shape(
      network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  for leaf in jax.tree.leaves(variables):
    assert leaf.dtype == jnp.float32
  images = jnp.zeros((4, 8, 8, 3))
  encode = jax.make_jaxpr(lambda v: network.apply(
      v, images, train=True, method='encode', mutable=['batch_stats']))(
          variables)
  assert 'bf16[3,3,' in str(encode)
  for leaf in encode.out_avals:
    assert leaf.dtype == jnp.float32
  whole = str(jax.make_jaxpr(lambda v: network.apply(
      v, images, train=True, mutable=['batch_stats']))(variables))
  products = re.findall(r':(\w+)\[[^\]]*\] = dot_general', whole)
  # Projector, predictor and probe; the encoder's own are convolutions.
  assert products.count('f32') >= 5


@pytest.mark.parametrize('accumulation_steps', [1, 2])
def test_views_made_in_the_step_are_as_good(tiny_config, accumulation_steps):
  tiny_config.accumulation_steps = accumulation_steps
  views = _batch(tiny_config).pop('views')
  rng = np.random.default_rng(1)
  batch = _batch(tiny_config) | {
      'crops': tuple(np.swapaxes((255 * view).astype(np.uint8), 3, 1)
                     for view in views),
      'draws': tuple(rng.random(
          (2, tiny_config.batch_size, draws.COUNT), np.float32))}
  del batch['views']
  tiny_config.augment.device = True
  ready = jax.jit(photometric.make_views_fn(tiny_config))(batch)
  losses = []
  for device, given in ((True, batch), (False, ready)):
    tiny_config.augment.device = device
    train_step, state = _make(tiny_config, axis_name=None)
    losses.append(jax.jit(train_step)(state, given)[1]['train/loss'])
  np.testing.assert_allclose(*losses, rtol=1e-5)


def test_dropout_differs_between_views_and_devices(tiny_config):
  """Each device's examples and each view draw their own mask."""
  class Dropped(nn.Module):

    @nn.compact
    def __call__(self, x, *, train=False):
      x = jnp.ones((x.shape[0], 64))
      return nn.Dropout(0.5, deterministic=not train)(x)

  network = network_lib.create_network.func(
      tiny_config, None, encoder=Dropped())
  views = _batch(tiny_config)['views']
  variables = network.init(jax.random.key(0), views[0])
  outputs, _ = network_lib.apply_views(
      network, variables, views, momentum=0.9, key=jax.random.key(1))
  assert (outputs[0].embedding != outputs[1].embedding).any()
  keys = jax.pmap(
      lambda _: jax.random.key_data(step_lib._of_this_device(
          jax.random.key(0), 'batch')), axis_name='batch')(np.zeros(4))
  assert len(np.unique(np.asarray(keys), axis=0)) == 4


def test_collectives_per_step(tiny_config):
  """Each synchronised layer costs one collective a pass, for both views.

  With two of ours online (projector, predictor) and one in the target, those
  are 2 + 1 forward and 2 back; 1 + 1 and 1 by Flax in the user's encoder.
  Gradients, metrics and moments are averaged at once, in two.
  """
  train_step, state = _make(tiny_config)
  p_train_step = devices.pmap_train_step(train_step)
  batch = devices.shard(_batch(tiny_config))
  compiled = p_train_step.lower(devices.replicate(state), batch).compile()

  def shapes(kind):
    return re.findall(f'= (.*) {kind}(?:-start)?\\(', compiled.as_text())

  # A layer's moments of both views: [views, devices, mean and square].
  gathered = shapes('all-gather')
  moments = [re.match(r'f32\[2,4,\d+\]', shape) for shape in gathered]
  assert len(moments) - moments.count(None) == 2 + 1 + 2
  assert moments.count(None) + len(shapes('all-to-all')) <= 2
  # [views, mean and square, channels].
  flax = [re.findall(r'f32\[2,2,\d+\]', s) for s in shapes('all-reduce')]
  assert sum(map(len, flax)) == 1 + 1 + 1

"""A state split over a host's devices is the state that each of them holds."""

import collections
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import all_reduce
from byol_jax import config as config_lib
from byol_jax.networks import network as network_lib
from byol_jax.planning import ledger
from byol_jax.training import devices
from byol_jax.training import optimizers
from byol_jax.training import setup as setup_lib
from byol_jax.training import sharding
from byol_jax.training import state as state_lib
from byol_jax.training import throughput


@pytest.fixture(autouse=True)
def _small_kernels_too(monkeypatch):
  monkeypatch.setattr(sharding, '_FEW', 64)
  monkeypatch.setattr(sharding, '_TILE_ROWS', 1)


def _run(config, encoder, shard_state, steps=3):
  config.shard_state = shard_state
  setup = setup_lib.set_up(config, encoder)
  state = setup.layout.split(devices.replicate(setup.create_state()))
  votes, rows = devices.ballot((False, 0)), []
  for seed in range(steps):
    rng = np.random.default_rng(seed)
    batch = throughput._synthetic_batch(setup) | {
        'views': tuple(rng.random((2, 16, 8, 8, 3), np.float32))}
    state, metrics, _ = setup.p_train_step(state, devices.shard(batch), votes)
    rows.append(jax.device_get(metrics))
  return setup.layout.whole(state), rows


SETTINGS = {
    'lars': {},
    'clipped_accumulated': dict(clip_trust_ratio=True, accumulation_steps=2),
    'sgd_no_target': dict(optimizer='sgd', target='stop_gradient'),
    'all_decayed': dict(exclude_bias_and_norm=False, weight_decay=0.1)}


@pytest.mark.parametrize('settings', SETTINGS)
def test_steps_are_those_of_a_replicated_state(
    tiny_config, tiny_encoder, settings):
  tiny_config.update(SETTINGS[settings])
  expected, expected_rows = _run(tiny_config, tiny_encoder, False)
  state, rows = _run(tiny_config, tiny_encoder, True)
  # Fused otherwise, sums differ in their last digits; ReLUs amplify that.
  chex.assert_trees_all_close(rows, expected_rows, rtol=1e-3, atol=1e-5)
  chex.assert_trees_all_close(state, expected, rtol=2e-3, atol=2e-4)
  chex.assert_trees_all_equal_shapes_and_dtypes(state, expected)
  assert rows[0]['train/loss'] != rows[-1]['train/loss']


def test_a_device_holds_a_share_of_large_kernels(tiny_config, tiny_encoder):
  tiny_config.shard_state = True
  setup = setup_lib.set_up(tiny_config, tiny_encoder)
  whole = devices.replicate(setup.create_state())
  state = jax.device_get(whole)
  shares, others = setup.layout.split(whole)
  # Whoever has the whole state yet, as a loop's callers do, keeps no kernel.
  assert sum(x.is_deleted() for x in jax.tree.leaves(whole)) == len(shares)
  # Two kernels of either head and the probe's, the two of the target's head,
  # and five momenta; the encoder's has 27 rows, which no four devices share.
  assert len(shares) == 5 + 2 + 5
  assert {x.shape[0] for x in shares} == {4}
  for share in shares:
    held = [np.asarray(x.data) for x in share.addressable_shards]
    assert [x.shape for x in held] == [(1, *share.shape[1:])] * 4
    np.testing.assert_array_equal(np.concatenate(held), share)
  assert sum(x.size for x in (*shares, *others)) == sum(
      x.size for x in jax.tree.leaves(state))
  # There and back, and still there to be trained on.
  chex.assert_trees_all_equal(setup.layout.whole((shares, others)), state)
  chex.assert_trees_all_equal(setup.layout.whole((shares, others)), state)


def test_the_step_takes_and_donates_shares(tiny_config, tiny_encoder):
  def state_bytes(shard_state):
    tiny_config.shard_state = shard_state
    setup = setup_lib.set_up(tiny_config, tiny_encoder)
    program = ledger.read_program(throughput.compile_step(setup)[0])
    return setup, program.memory.state

  _, whole = state_bytes(False)
  setup, split = state_bytes(True)
  shares, _ = setup.layout.shapes(setup.create_abstract_state(), 1)
  per_device = 4 * sum(x.size for x in shares)
  assert per_device
  assert split == whole - 3 * per_device


def test_one_device_keeps_all(tiny_config):
  tiny_config.shard_state = True
  layout = sharding.create_layout(
      tiny_config, None, None, axis_name='batch', num_devices=2, per_host=1)
  assert isinstance(layout, sharding.Replicated)


def test_hosts_with_other_numbers_of_devices_are_refused(tiny_config):
  tiny_config.shard_state = True
  with pytest.raises(config_lib.ConfigError, match='3 of 8 devices'):
    sharding.create_layout(
        tiny_config, None, None, axis_name='batch', num_devices=8, per_host=3)


def test_where_all_kernels_are_small_all_is_replicated(
    tiny_config, tiny_encoder, monkeypatch):
  monkeypatch.setattr(sharding, '_FEW', 10**6)
  tiny_config.shard_state = True
  layout = setup_lib.set_up(tiny_config, tiny_encoder).layout
  assert isinstance(layout, sharding.Replicated)


@pytest.mark.parametrize('sums', ['cpu', 'accelerator'])
@pytest.mark.parametrize('per_host', [2, 4])
def test_scattered_sums(per_host, sums):
  """Device i of each host has part i of the sum over all devices."""
  hosts = np.arange(4).reshape(-1, per_host).tolist()
  across = np.arange(4).reshape(-1, per_host).T.tolist()
  scatter = {
      'cpu': all_reduce.psum_scatter,
      'accelerator': all_reduce.psum_scatter_of_xla}[sums]
  x = np.random.default_rng(0).random((4, 8, 3), np.float32)
  found = jax.pmap(functools.partial(
      scatter, axis_name='i', groups=hosts, across=across),
      axis_name='i')([jnp.asarray(x)])
  expected = x.sum(0).reshape(per_host, -1, 3)
  for i in range(4):
    np.testing.assert_allclose(found[0][i], expected[i % per_host], rtol=1e-6)


@pytest.mark.parametrize('per_host', [2, 4])
def test_shares_of_a_mean_are_over_all_hosts(
    tiny_config, tiny_encoder, per_host, monkeypatch):
  """As accelerators have it, by a layout's own groups."""
  monkeypatch.setattr(
      all_reduce, 'psum_scatter', all_reduce.psum_scatter_of_xla)
  tiny_config.shard_state = True
  state = setup_lib.set_up(tiny_config, tiny_encoder).create_state()
  layout = sharding.create_layout(
      tiny_config, network_lib.create_network(tiny_config, 10, tiny_encoder),
      lambda: state, axis_name='i', num_devices=4, per_host=per_host)
  rng = np.random.default_rng(0)
  grads = jax.tree.map(
      lambda x: rng.random((4, *x.shape), np.float32), state.online_params)
  found, others = jax.pmap(layout.average, axis_name='i')(
      grads, [np.arange(4, dtype=np.float32)])
  np.testing.assert_array_equal(others[0], 1.5)

  def check(mean, expected):
    for i, part in enumerate(mean):
      share = expected
      if part.shape != expected.shape:
        share = expected.reshape(per_host, -1, part.shape[-1])[i % per_host]
      np.testing.assert_allclose(part, share, rtol=1e-6)

  jax.tree.map(
      lambda mean, all_grads: check(mean, all_grads.mean(0)), found, grads)
  split = [x.shape[1:] for x in jax.tree.leaves(found)]
  whole = [x.shape for x in jax.tree.leaves(state.online_params)]
  assert sum(a != b for a, b in zip(split, whole, strict=True)) == 5


@pytest.mark.parametrize('per_host', [2, 4])
def test_several_hosts_gather_and_measure_by_themselves(
    tiny_config, tiny_encoder, per_host):
  """As within a step of several hosts, each of which has all shares."""
  tiny_config.shard_state = True
  setup = setup_lib.set_up(tiny_config, tiny_encoder)
  state = setup.create_state()
  layout = sharding.create_layout(
      tiny_config, setup.network, lambda: state, axis_name='i', num_devices=4,
      per_host=per_host)
  shares, others = layout._part(state)
  shares = tuple(
      jnp.tile(x.reshape(per_host, -1, x.shape[-1]), (4 // per_host, 1, 1))
      for x in shares)

  def use(split):
    params = layout.unite(split).online_params
    return layout.gather(params), layout.norms(params), layout.norm(params)

  gathered, norms, norm = jax.pmap(
      use, axis_name='i', in_axes=(layout.axes,))((shares, others))
  expected = state.online_params
  for i in range(4):
    chex.assert_trees_all_equal(
        jax.tree.map(lambda x, i=i: x[i], gathered), expected)
    chex.assert_trees_all_close(
        jax.tree.map(lambda x, i=i: x[i], norms),
        sharding.local_norms(expected), rtol=1e-6)
  np.testing.assert_allclose(
      norm[0], np.full(4, sharding.Replicated().norm(expected)[0]), rtol=1e-6)


@pytest.mark.parametrize('encoder_norm', ['batch', 'group_ws'])
def test_only_what_is_rounded_anyway_is_gathered_rounded(
    tiny_config, encoder_norm):
  """Layers round kernels to bfloat16 first; standardisation does not."""
  tiny_config.compute_dtype = 'bfloat16'
  tiny_config.encoder_norm = encoder_norm
  tiny_config.norm_groups = 4
  tiny_config.shard_state = True
  network = network_lib.create_network(tiny_config, 10)
  tx = optimizers.create_optimizer(tiny_config, lambda _: 0.1)
  with jax.numpy_dtype_promotion('standard'):
    shapes = jax.eval_shape(
        state_lib.make_create_train_state(network, tx, tiny_config))
  rng = np.random.default_rng(0)
  state = jax.tree.map(
      lambda x: rng.random(x.shape, np.float32).astype(x.dtype), shapes)
  layout = sharding.create_layout(
      tiny_config, network, lambda: shapes, axis_name='i', num_devices=4,
      per_host=4)
  gather = jax.pmap(
      lambda split: layout.gather(layout.unite(split).online_params),
      axis_name='i', in_axes=(layout.axes,), out_axes=None)
  gathered = gather(layout.split(devices.replicate(state)))

  moved = collections.Counter(re.findall(
      r':(\w+)\[[\d,]+\] = all_gather\[', str(jax.make_jaxpr(gather)(
          layout.shapes(shapes, 4)))))
  # All of the encoder's kernels but the stem's, whose 27 rows no four devices
  # share, and one of 32 values; of the heads two each, and the probe's.
  kernels = sum(
      x.ndim > 1 for x in jax.tree.leaves(shapes.online_params['encoder'])) - 2
  assert moved == (
      {'bf16': kernels, 'f32': 5} if encoder_norm == 'batch' else
      {'f32': kernels + 5})
  for part, tree in gathered.items():
    # A CPU may leave the rounding to the layers.
    as_used = jnp.bfloat16 if (
        encoder_norm == 'batch' and part == 'encoder') else jnp.float32
    chex.assert_trees_all_equal(*(
        jax.tree.map(functools.partial(np.asarray, dtype=as_used), t)
        for t in (tree, state.online_params[part])))

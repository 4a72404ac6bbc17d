"""Every normalisation through whole steps and whole runs, on a real ResNet."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax import config as config_lib
from byol_jax import load_encoder
from byol_jax.data import pipeline
from byol_jax.data import sources
from byol_jax.networks import affine_init
from byol_jax.networks import network as network_lib
from byol_jax.training import loop
from byol_jax.training import saved_run
from byol_jax.training import setup as setup_lib
from byol_jax.training import start
from byol_jax.training import state as state_lib
from byol_jax.training import step as step_lib


def _set_norms(config, encoder, projector, predictor):
  config.norm_groups = 2
  config.encoder_norm = encoder
  config.projector_norm = projector
  config.predictor_norm = predictor
  if encoder == 'instance':  # needs positions to average over
    config.image_size = 16
  return config


def _source(config):
  return sources.create_source(config, config.train_split)


def test_the_first_state_is_that_of_one_device(tiny_config, tiny_encoder):
  """Statistics of the first batch span all devices, target included."""
  config = tiny_config
  config.projector_norm = config.predictor_norm = 'affine_init'
  source = _source(config)
  tx = optax.sgd(0.1)
  create = start.make_create_first_state(
      network_lib.create_network(config, 10, tiny_encoder, 'batch'), tx,
      config, source)
  state = create()
  chex.assert_trees_all_equal(state, create())

  images = pipeline.read_first_views(source, config)
  assert images.shape == (32, 8, 8, 3)
  batch = next(pipeline.create_train_dataset(
      source, config, total_steps=8).as_numpy_iterator())
  np.testing.assert_array_equal(images[0::2], batch['views'][0])
  np.testing.assert_array_equal(images[1::2], batch['views'][1])
  network = network_lib.create_network(config, 10, tiny_encoder)

  def alone(images):
    return state_lib.create_train_state(
        network, tx, config, jnp.asarray(images))

  def scale(params):
    return params['projector']['norm1']['scale']

  chex.assert_trees_all_close(state, alone(images), rtol=1e-3, atol=1e-4)
  other = scale(alone(images[:8]).online_params)
  assert not np.allclose(scale(state.online_params), other, rtol=1e-2)
  # In training, after a batch norm that normalises, so do these.
  _, seen = network.apply(
      {'params': state.online_params,
       'batch_stats': state.online_batch_stats}, images, train=True,
      mutable=['batch_stats', 'intermediates'],
      capture_intermediates=lambda module, _: isinstance(
          module, affine_init.Affine))
  layers = jax.tree.leaves(seen['intermediates'])
  assert len(layers) == 2
  for layer in layers:
    np.testing.assert_allclose(jnp.mean(layer, axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(jnp.std(layer, axis=0), 1, atol=5e-3)
  # Online and target each made up for their own weights.
  assert not np.allclose(
      scale(state.online_params), scale(state.target_params), rtol=1e-2)


def test_accumulation_starts_from_the_first_micro_batch(tiny_config):
  tiny_config.accumulation_steps = 4
  views = pipeline.read_first_views(_source(tiny_config), tiny_config)
  tiny_config.accumulation_steps = 1
  whole = pipeline.read_first_views(_source(tiny_config), tiny_config)
  pairs = whole.reshape(16, 2, 8, 8, 3)
  np.testing.assert_array_equal(views, pairs[::4].reshape(8, 8, 8, 3))


def test_nothing_is_read_where_nothing_depends_on_it(tiny_config):
  network = network_lib.create_network(tiny_config, None)
  start.make_create_first_state(network, optax.sgd(0.1), tiny_config, None)()


def _run(config, num_devices):
  network = network_lib.create_network(config, 10, axis_name='batch')
  tx = optax.sgd(0.1, momentum=0.9)
  train_step = step_lib.make_train_step(
      config, network, tx, lambda step: jnp.float32(0.1), total_steps=10)
  p_train_step = jax.pmap(
      train_step, axis_name='batch', in_axes=(None, 0),
      out_axes=(None, None), devices=jax.devices()[:num_devices])
  source = _source(config)
  state = start.make_create_first_state(network, tx, config, source)()
  state = jax.device_get(state)  # tied to no device
  for batch in pipeline.create_train_dataset(
      source, config, total_steps=3).as_numpy_iterator():
    state, metrics = p_train_step(state, jax.tree.map(
        lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch))
  return state, metrics


def test_one_device_equals_four_without_batch_statistics(tiny_config):
  config = _set_norms(tiny_config, 'affine_init', 'group_ws', 'layer')
  one, four = _run(config, 1), _run(config, 4)
  assert not one[0].online_batch_stats
  chex.assert_trees_all_close(one[1], four[1], rtol=1e-3)
  chex.assert_trees_all_close(one[0], four[0], rtol=2e-3, atol=2e-4)


def _slow(*norms):
  return pytest.param(norms, marks=pytest.mark.slow)


@pytest.mark.parametrize('norms', [
    _slow('affine_init', 'group_ws', 'layer'),
    _slow('group_ws', 'instance', 'none'),
    _slow('instance', 'layer', 'affine_init'),
    _slow('none', 'affine_init', 'group_ws'),
    _slow('batch_local', 'none', 'batch_local'),
    _slow('layer', 'batch_local', 'instance'),
])
def test_a_run_with_it_trains_evaluates_and_loads(
    norms, tiny_config, tmp_path, capsys):
  config = _set_norms(tiny_config, *norms)
  config.total_steps = 2
  config.warmup_steps = 0
  config.base_learning_rate = 0.5
  config.final_protocols = ('knn',)
  loop.pretrain(config, str(tmp_path))
  assert 'random init' in capsys.readouterr().out
  _, network, state = saved_run.restore(str(tmp_path))
  assert int(state.step) == 2
  first = setup_lib.set_up(config).create_state()
  moved = jax.tree.map(
      lambda a, b: np.max(np.abs(a - b)),
      *jax.device_get((state.online_params, first.online_params)))
  for part in ('encoder', 'projector', 'predictor'):
    assert max(jax.tree.leaves(moved[part])) > 1e-6, part

  images = np.random.default_rng(0).random(
      (3, config.image_size, config.image_size, 3), np.float32)
  variables = {'params': state.online_params,
               'batch_stats': state.online_batch_stats}
  np.testing.assert_allclose(
      load_encoder(str(tmp_path))(images),
      network.apply(variables, images, method='encode'), rtol=1e-4, atol=1e-5)


def test_another_norm_is_another_network(tiny_config, tiny_encoder, tmp_path):
  """A checkpoint is refused where its layers are not the config's."""
  tiny_config.total_steps = 1
  tiny_config.warmup_steps = 0
  loop.pretrain(tiny_config, str(tmp_path), tiny_encoder)
  tiny_config.projector_norm = 'layer'
  with pytest.raises(config_lib.ConfigError, match='projector_norm'):
    loop.pretrain(tiny_config, str(tmp_path), tiny_encoder)

"""Checkpoints of the original: what it recorded, and its full-sized networks.

`tests/golden/dm_tiny_*` was written by DeepMind's own code: a checkpoint
after four updates, and what its networks make of eight images.
"""

import functools
import json
import pathlib

import jax
import numpy as np
import optax
import pytest

from byol_jax import config as config_lib
from byol_jax.interchange import deepmind
from byol_jax.interchange import deepmind_checkpoint
from byol_jax.interchange import restricted_pickle
from byol_jax.networks import network as network_lib

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
EXPECTED = np.load(GOLDEN / 'dm_tiny_expected.npz')
FILES = ('dm_tiny_checkpoint.pkl', 'dm_tiny_checkpoint_2020style.pkl')
ENCODER = 'tiny_res_net/~/'


@functools.lru_cache
def _read(name):
  return deepmind_checkpoint.read(
      str(GOLDEN / name), config_lib.get_base_config())


def _at(tree, path):
  for part in path:
    tree = tree[part]
  return np.asarray(tree)


def _expected_tree(field):
  """(module, key, array) of everything in the checkpoint."""
  prefix = f'tree/{field}/'
  for name in EXPECTED.files:
    if name.startswith(prefix):
      yield *name.removeprefix(prefix).rsplit('/', 1), EXPECTED[name]


@pytest.mark.parametrize('name', FILES)
def test_outputs_are_the_originals(name):
  imported = _read(name)
  network = network_lib.create_network(imported.config, imported.num_classes)
  images = EXPECTED['images_u8'].astype(np.float32) / np.float32(255)
  state = imported.state
  online = jax.jit(network.apply)({
      'params': state.online_params,
      'batch_stats': state.online_batch_stats}, images)
  target = jax.jit(functools.partial(network.apply, method='project'))({
      'params': state.target_params,
      'batch_stats': state.target_batch_stats}, images)
  for side, outputs, fields in (
      ('online', online, ('embedding', 'projection', 'prediction', 'logits')),
      ('target', target, ('embedding', 'projection'))):
    for field in fields:
      expected = EXPECTED[f'{side}/{field}']
      np.testing.assert_allclose(
          getattr(outputs, field), expected, rtol=1e-5,
          atol=1e-5 * np.abs(expected).max(), err_msg=f'{side} {field}')


@pytest.mark.parametrize('name', FILES)
def test_every_tensor_comes_over(name):
  state = _read(name).state
  momentum = optax.tree.get(state.opt_state, 'trace')
  for field, tree in (
      ('online_params', state.online_params), ('momentum', momentum),
      ('target_params', state.target_params)):
    count = 0
    for module, key, expected in _expected_tree(field):
      path = deepmind.parameter_path(module, key)
      if field == 'target_params' and path[0] in ('predictor', 'probe'):
        continue
      np.testing.assert_array_equal(
          _at(tree, path), expected.reshape(_at(tree, path).shape),
          err_msg=f'{field} {path}')
      count += 1
    assert count == len(jax.tree.leaves(tree))
  for side in ('online', 'target'):
    tree, count = getattr(state, f'{side}_batch_stats'), 0
    for module, key, expected in _expected_tree(f'{side}_state'):
      layer, moment = module.rsplit('/~/', 1)
      path = (*deepmind.module_path(layer), moment.removesuffix('_ema'))
      if key == 'average' and (side, path[0]) != ('target', 'predictor'):
        np.testing.assert_array_equal(_at(tree, path), expected.reshape(-1))
        count += 1
    assert count == len(jax.tree.leaves(tree))


def test_settings_of_the_original():
  imported = _read(FILES[0])
  config = imported.config
  assert config.encoder == 'resnet10'
  assert config.resnet.to_dict() == dict(
      width=1.0, channels_per_group=(8, 8, 8, 8), stem='imagenet',
      padding='same', projection_shortcut='group', zero_gamma=False)
  assert (config.projector.hidden_size, config.projector.output_size,
          config.predictor.hidden_size) == (16, 8, 16)
  assert imported.num_classes == 10
  assert config.base_learning_rate == 0.2  # as it was given


def test_the_step_is_the_number_of_updates():
  """Saved as 3 after the update of step 3, the fourth."""
  state = _read(FILES[0]).state
  assert int(state.step) == 4
  assert int(optax.tree.get(state.opt_state, 'count')) == 4


# Contents that no file is needed for.


def _array(value):
  return restricted_pickle.Array(value)


def _content(network):
  """A checkpoint of a network in names.json; its arrays take no memory."""
  described = json.loads((GOLDEN / 'names.json').read_text())[network]

  def tree(field):
    modules = {}
    for name, shape in described[field]:
      module, key = name.rsplit('/', 1)
      value = np.int32(200) if key == 'counter' else np.float32(1)
      modules.setdefault(module, {})[key] = _array(
          np.broadcast_to(value, shape))
    return modules

  chain = (
      restricted_pickle.Record('AddWeightDecayState', {}),
      restricted_pickle.Record('ScaleByLarsState', {'mu': tree('params')}),
      restricted_pickle.Record('EmptyState', {}))
  return {
      'step': 100, 'rng': _array(np.zeros(2, np.uint32)),
      'experiment_state': restricted_pickle.Record('_ByolExperimentState', {
          'online_params': tree('params'), 'target_params': tree('params'),
          'online_state': tree('state'), 'target_state': tree('state'),
          'opt_state': chain})}


def _import(monkeypatch, content):
  monkeypatch.setattr(restricted_pickle, 'load', lambda _: content)
  return deepmind_checkpoint.read('file', config_lib.get_base_config())


@pytest.mark.parametrize('network, encoder, width, classes', [
    ('ResNet18x1', 'resnet18', 1, 1000), ('ResNet50x1', 'resnet50', 1, 1000),
    pytest.param(
        'ResNet200x2', 'resnet200', 2, 1000, marks=pytest.mark.slow)])
def test_full_sized_networks(monkeypatch, network, encoder, width, classes):
  imported = _import(monkeypatch, _content(network))
  config = imported.config
  assert (config.encoder, config.resnet.width) == (encoder, width)
  assert config.resnet.channels_per_group == ()
  assert (config.projector.hidden_size, config.projector.output_size,
          config.predictor.hidden_size) == (4096, 256, 4096)
  assert imported.num_classes == classes
  assert int(imported.state.step) == 100  # counted 200 views: the last save
  described = json.loads((GOLDEN / 'names.json').read_text())[network]
  assert described['num_params'] == sum(
      x.size for x in jax.tree.leaves(imported.state.online_params))


def test_two_digit_blocks():
  """ResNet-200 has 36 blocks in a group, ResNet-152 too."""
  assert deepmind.parameter_path(
      'res_net200/~/block_group_2/~/block_35/~/conv_2', 'w') == (
          'encoder', 'group3_block36', 'conv3', 'kernel')


def _rename(content, old, new):
  fields = content['experiment_state'].fields
  trees = [fields[name] for name in fields if name != 'opt_state']
  for tree in (*trees, fields['opt_state'][1].fields['mu']):
    for module in [m for m in tree if m.startswith(old)]:
      tree[new + module.removeprefix(old)] = tree.pop(module)


def test_names_of_2020(monkeypatch):
  content = _content('TinyResNet_ckpt')
  for kind in ('conv', 'batchnorm'):
    _rename(content, f'{ENCODER}initial_{kind}', f'{ENCODER}initial_{kind}_1')
  assert f'{ENCODER}initial_conv_1' in content[
      'experiment_state'].fields['online_params']
  encoder = _import(monkeypatch, content).state.online_params['encoder']
  assert encoder['stem_conv']['kernel'].shape == (7, 7, 3, 64)


def test_lists_scalars_and_other_records(monkeypatch):
  """As earlier versions of its libraries left them."""
  content = _content('TinyResNet_ckpt')
  fields = content['experiment_state'].fields
  fields['opt_state'] = [
      fields['opt_state'][1], restricted_pickle.Record('ScaleState', {})]
  content['step'] = _array(np.asarray(99, np.int64))
  del content['rng']
  assert int(_import(monkeypatch, content).state.step) == 100


def _edit(change):
  """A tiny checkpoint, changed."""
  content = _content('TinyResNet_ckpt')
  fields = dict(content['experiment_state'].fields)
  fields['mu'] = fields['opt_state'][1].fields['mu']
  change(content, fields)
  return content


def _replace(module, key, value):
  return lambda _, fields: fields['online_params'][module].update({
      key: _array(value)})


CONV = f'{ENCODER}block_group_0/~/block_0/~/conv_0'


@pytest.mark.parametrize('change, message', [
    (lambda c, f: c.pop('experiment_state'), "holds 'step', 'rng', expected"),
    (lambda c, f: c.update(step='x'), 'step is no integer'),
    (lambda c, f: c.update(step=-1), 'no possible one'),
    (lambda c, f: c['experiment_state'].fields.pop('opt_state'),
     'and not opt_state'),
    (lambda c, f: c['experiment_state'].fields.update(opt_state=()),
     'no momentum'),
    (lambda c, f: c['experiment_state'].fields.update(online_params=3),
     'online_params is a int'),
    (lambda c, f: f['online_params'].update({'vit/~/linear': {
        'w': _array(np.zeros((1, 1), np.float32))}}), "module 'vit/~/linear'"),
    (lambda c, f: f['online_params'].update({
        f'{ENCODER}final_batchnorm': {'scale': _array(np.ones(8, 'f'))}}),
     'final_batchnorm'),
    (lambda c, f: f['online_params'][CONV].update(w=3), 'expected an array'),
    (lambda c, f: f['online_params'][CONV].update(
        w=restricted_pickle.Array()), 'expected an array'),
    (lambda c, f: f['online_params'][CONV].update(
        mask=_array(np.ones(1, 'f'))), 'conv_0/mask'),
    (lambda c, f: f['online_params'].pop(CONV),
     r'conv1.kernel .* shape nothing, expected \(3, 3, 64, 8\)'),
    (lambda c, f: f['target_params'].pop(CONV), 'target parameters have'),
    (lambda c, f: f['mu'].pop(CONV), 'momentum have'),
    (lambda c, f: f['online_params'].pop('classifier'), 'no probe.kernel'),
    (lambda c, f: f['online_params'].pop(f'{ENCODER}initial_conv'),
     'no encoder.stem_conv.kernel'),
    (_replace(CONV, 'w', np.ones((3, 3, 64, 7), 'f')), 'conv1.kernel'),
    (_replace(CONV, 'w', np.ones((3, 3, 64, 8), 'i4')), 'int32'),
    (_replace(CONV, 'w', np.full((3, 3, 64, 8), np.nan, 'f')), 'not finite'),
    (_replace(f'{ENCODER}initial_conv', 'w', np.ones((3, 3, 3, 64), 'f')),
     'stem_conv.kernel'),
    (_replace(f'{ENCODER}initial_conv', 'w', np.ones((7, 7, 3, 0), 'f')),
     'empty'),
    (_replace('classifier', 'b', np.ones((), 'f')), 'no probe.bias'),
    (lambda c, f: f['online_state'].clear(), 'nothing'),
    (lambda c, f: next(iter(f['online_state'].values())).update(
        counter=_array(np.asarray(7, np.int32))), r'\[7, 200\]'),
])
def test_unknown_contents(monkeypatch, change, message):
  with pytest.raises(config_lib.ConfigError, match=message) as caught:
    _import(monkeypatch, _edit(change))
  assert '\n' not in str(caught.value)


def test_unknown_depth(monkeypatch):
  content = _content('ResNet18x1')
  _rename(content, 'res_net18/~/block_group_3/~/block_1',
          'res_net18/~/block_group_2/~/block_2')
  with pytest.raises(config_lib.ConfigError, match=(
      r'groups of \(2, 2, 3, 1\) basic blocks, expected one of')):
    _import(monkeypatch, content)

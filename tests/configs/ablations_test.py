"""The ablations: what each changes, what it is called, and that it runs."""

import re

import jax
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax import config_changes
from byol_jax import config_rules
from byol_jax.training import devices
from byol_jax.training import setup as setup_lib
from configs import ablations

PAIRS = [
    (name, base) for name, ablation in ablations.ABLATIONS.items()
    for base in ablations.BASES
    if not (base == 'cifar10' and ablation.not_on_cifar10)]

# Of every kind of change one; the slow test has them all.
REPRESENTATIVE = (
    'predictor_learning_rate_10', 'no_predictor', 'simclr', 'batch_over_4',
    'loss_batch', 'crops_only', 'lars_without_masks')


def _changes(config, base):
  """The fields in which `config` is not `base`, but for what people read."""
  lines = config_changes.differences(config, base)
  return {line.split(':')[0] for line in lines} - {'name', 'published'}


@pytest.mark.parametrize('name, base', PAIRS)
def test_differs_only_in_the_fields_described(name, base):
  config = ablations.get_config(f'{name},{base}')
  config_rules.validate(config)
  config_lib.run_length(config, 50_000)
  changes = _changes(config, ablations.BASES[base]())
  # From the text that people read, not from the table.
  sets = re.search('^  sets (.*)$', ablations.describe(name), re.M).group(1)
  described = re.findall(r'([\w.]+)=(\S+?)(?:, |$)', sets)
  flat = config_lib.flatten(config.to_dict())
  assert [(k, repr(flat[k])) for k, _ in described] == described
  if base == 'imagenet':
    assert changes == dict(described).keys()
  else:  # which lacks some of what is removed
    assert changes <= dict(described).keys()
  assert changes or name == 'byol'
  assert config.name == name
  assert config.published in ablations.describe(name)


@pytest.mark.parametrize('name, reason', [
    # Two and four images do not make the batch statistics of the table.
    ('batch_over_64', 'its micro-batches would have 2 images'),
    ('batch_over_32', 'its micro-batches would have 4 images'),
    ('weight_decay_0', 'the row is of LARS')])
def test_no_name_on_cifar10_for_what_it_would_not_be(name, reason, capsys):
  with pytest.raises(ValueError, match=reason):
    ablations.get_config(f'{name},cifar10')
  slip = ablations.main(['--check', 'byol,cifar10', f'{name},cifar10'])
  assert reason in slip and slip.startswith('error: ')
  assert ablations.main(['--check', 'byol,cifar10', name]) is None
  assert not capsys.readouterr().out


@pytest.mark.parametrize('base', ablations.BASES)
def test_no_two_names_are_the_same_change(base):
  seen = {}
  for name, its_base in PAIRS:
    if its_base == base:
      config = ablations.get_config(f'{name},{base}')
      config.name = config.published = ''
      other = seen.setdefault(config.to_json(sort_keys=True), name)
      assert other == name


def test_the_bases():
  """The paper's setting, and the quickstart but for its length."""
  config = ablations.get_config()
  assert (config.num_epochs, config.batch_size) == (300, 4096)
  assert (config.base_learning_rate, config.weight_decay) == (0.3, 1e-6)
  assert (config.base_tau, config.tau_schedule) == (0.99, 'cosine')
  assert config.data == 'tfds:imagenet2012'
  assert ablations.get_config('byol,cifar10').data == 'tfds:cifar10'


# By hand from the papers' tables, not from the module.
@pytest.mark.parametrize('name, figure, place, fields', [
    ('byol', '72.5', 'Table 5b', {}),
    ('tau_0', '0.3', 'Table 5a', dict(base_tau=0.0, tau_schedule='constant')),
    ('tau_1', '18.8 +- 0.7', 'Table 5a',
     dict(base_tau=1.0, tau_schedule='constant')),
    ('tau_scheduled_0.999', '69.8', 'Table 5a', dict(base_tau=0.999)),
    ('tau_scheduled_0.9', '68.4', 'Table 5a', dict(base_tau=0.9)),
    ('no_predictor', '0.2', 'Table 5b', {'predictor.depth': 0}),
    ('no_predictor_no_target', '0.1', 'Table 5b',
     {'predictor.depth': 0, 'target': 'online'}),
    ('simclr', '69.4', 'Table 5b',
     {'predictor.depth': 0, 'target': 'online', 'beta': 1.0}),
    ('no_predictor_beta_1', '70.7', 'Table 5b',
     {'predictor.depth': 0, 'beta': 1.0}),
    ('no_target_beta_1', '69.1', 'Table 5b',
     {'target': 'online', 'beta': 1.0}),
    ('stop_gradient', '5.5', 'Table 19', dict(target='stop_gradient')),
    ('beta_1', '70.9', 'Table 18', dict(beta=1.0)),
    ('beta_1_temperature_0.01', '53.9', 'Table 18',
     dict(beta=1.0, temperature=0.01)),
    ('beta_0.5_temperature_3', '72.6', 'Table 18',
     dict(beta=0.5, temperature=3.0)),
    ('beta_0.1_temperature_10', '72.5', 'Table 18',
     dict(beta=0.1, temperature=10.0)),
    ('predictor_linear', '71.5', 'Table 14', {'predictor.depth': 1}),
    ('predictor_3_layers', '71.4', 'Table 14', {'predictor.depth': 3}),
    ('projector_1_predictor_2', '65.0', 'Table 14', {'projector.depth': 1}),
    ('projector_3_predictor_1', '71.4', 'Table 14',
     {'projector.depth': 3, 'predictor.depth': 1}),
    ('projection_size_64', '72.2', 'Table 14', {'projector.output_size': 64}),
    ('loss_none', '67.4', 'Table 20', dict(loss_normalization='none')),
    ('loss_batch', '65.3', 'Table 20', dict(loss_normalization='batch')),
    ('batch_over_8', '72.2', 'Table 16, batch 512',
     dict(accumulation_steps=8)),
    ('batch_over_64', '59.7 +- 1.5', 'Table 16, batch 64',
     dict(accumulation_steps=64)),
    ('true_batch_512', '73.7', 'appendix G',
     dict(batch_size=512, num_epochs=1000, base_learning_rate=0.4,
          base_tau=0.9995, weight_decay=1.5e-6)),
    ('predictor_learning_rate_10', '66.6', 'Table 21',
     dict(base_tau=0.0, tau_schedule='constant',
          predictor_learning_rate_multiplier=10.0)),
    ('no_grayscale', '70.3', 'Table 17', {
        'augment.view1.grayscale_prob': 0.0,
        'augment.view2.grayscale_prob': 0.0}),
    ('no_blur_in_view2', '72.4', 'Table 17',
     {'augment.view2.blur_prob': 0.0}),
    ('learning_rate_0.01', '34.8', 'Table 15',
     dict(base_learning_rate=0.01)),
    ('weight_decay_1e-5', '69.6', 'Table 15', dict(weight_decay=1e-5)),
    ('lars_without_masks', 'no known figure', 'not in the paper',
     dict(exclude_bias_and_norm=False)),
    ('norms_batch_none_none', '72.1', 'not verified',
     dict(projector_norm='none', predictor_norm='none')),
    ('norms_none', '0.1', 'not verified', dict(
        encoder_norm='none', projector_norm='none', predictor_norm='none')),
    ('norms_affine_init', '65.7', 'not verified', dict(
        encoder_norm='affine_init', projector_norm='affine_init',
        predictor_norm='affine_init')),
    ('norms_group_ws', '73.9', 'abstract', dict(
        encoder_norm='group_ws', projector_norm='group_ws',
        predictor_norm='group_ws')),
    ('simclr_norms_layer_none', 'no known figure', 'not seen', {
        'predictor.depth': 0, 'target': 'online', 'beta': 1.0,
        'encoder_norm': 'layer', 'projector_norm': 'none'}),
])
def test_the_papers_rows(name, figure, place, fields):
  config = ablations.get_config(name)
  assert config.published.startswith(f'{figure} (')
  assert place in config.published
  assert _changes(config, ablations.get_config()) == set(fields)
  flat = config_lib.flatten(config.to_dict())
  assert {field: flat[field] for field in fields} == fields


def test_crops_only_changes_nothing_but_the_crop():
  for base in ablations.BASES:
    config = ablations.get_config(f'crops_only,{base}')
    for view in config.augment.view1, config.augment.view2:
      probabilities = {k: v for k, v in view.items() if k.endswith('_prob')}
      assert len(probabilities) == 5
      assert not any(probabilities.values())
      assert view.crop_area_range[0] < 1


def test_symmetric_views_are_alike():
  config = ablations.get_config('symmetric_views')
  assert config.augment.view1 == config.augment.view2
  assert config.augment.view1.blur_prob == 0.5
  assert config.augment.view1.solarize_prob == 0.2


def test_the_grid_of_norms_is_whole():
  """27 combinations of BYOL and 9 of SimCLR, each under one name."""
  byol, simclr = set(), set()
  for name, ablation in ablations.ABLATIONS.items():
    config = ablations.get_config(name)
    norms = (config.encoder_norm, config.projector_norm, config.predictor_norm)
    if set(norms) <= {'batch', 'layer', 'none'}:
      rest = {k for k in ablation.fields if not k.endswith('_norm')}
      if not rest:
        byol.add(norms)
      elif name.startswith('simclr'):
        simclr.add(norms)
  assert len(byol) == 27
  assert len(simclr) == 9


@pytest.mark.parametrize('argument, words', [
    ('no_predicter', ('did you mean no_predictor?', 'simclr_norms_none')),
    ('completely else', ('expected one of byol, tau_0',)),
    ('', ('expected one of byol, tau_0',)),
    ('byol,cifar', ("no base 'cifar'", 'expected one of imagenet, cifar10')),
    ('no_blur,cifar10', ('neither blur nor', 'use no_blur,imagenet')),
])
def test_slips_are_one_line(argument, words):
  with pytest.raises(ValueError) as error:
    ablations.get_config(argument)
  message = str(error.value)
  assert '\n' not in message
  for word in words:
    assert word in message


def _tiny(name):
  """The ablation on fake data, tiny but for what it changes."""
  config = ablations.get_config(name)
  tiny = {
      'data': 'fake:32', 'test_split': '', 'image_size': 16,
      'final_protocols': (), 'encoder': 'resnet10', 'resnet.stem': 'cifar',
      # 16 channels, so that 16 groups divide them.
      'resnet.width': 1 / 4, 'projector.hidden_size': 32,
      'projector.output_size': 8, 'predictor.hidden_size': 32,
      'total_steps': 3, 'warmup_steps': 1,
      # At least one image of a micro-batch for each of four devices.
      'batch_size': max(16, 4 * config.accumulation_steps)}
  changed = set(ablations.ABLATIONS[name].fields) - {'batch_size'}
  for field, value in tiny.items():
    if field not in changed:
      config_lib.set_field(config, field, value)
  return config


@pytest.fixture
def _compiled_in_a_moment():
  """What runs for three steps need not be fast."""
  jax.config.update('jax_disable_most_optimizations', True)
  # Flax's normalisation promotes the recipe's bfloat16.
  with jax.numpy_dtype_promotion('standard'):
    yield
  jax.config.update('jax_disable_most_optimizations', False)
  # Over a hundred programs would exhaust the memory maps of a process.
  jax.clear_caches()


def _take_three_steps(config, encoder):
  """Finite metrics, and parameters that move, in every part that is there."""
  setup = setup_lib.set_up(config, encoder)
  state = setup.create_state()
  before = jax.device_get(state.online_params)
  for _, batch in zip(range(3), setup.create_batches(0), strict=True):
    state, metrics, _ = setup.p_train_step(
        state, batch, devices.ballot((False, 0)))
    for key, value in jax.device_get(metrics).items():
      assert np.all(np.isfinite(value)), key
  assert int(state.step) == 3
  moved = jax.tree.map(
      lambda a, b: not np.array_equal(a, b), before,
      jax.device_get(state.online_params))
  for part in ('encoder', 'projector'):
    assert any(jax.tree.leaves(moved[part])), part
  return moved


@pytest.mark.parametrize('name', REPRESENTATIVE)
@pytest.mark.usefixtures('_compiled_in_a_moment')
def test_three_steps(name, tiny_encoder):
  """With an encoder that has its own norm, for speed."""
  config = _tiny(name)
  config.encoder_norm = 'batch'
  moved = _take_three_steps(config, tiny_encoder)
  assert bool(moved.get('predictor')) == (config.predictor.depth > 0)


@pytest.mark.parametrize('name', ['norms_affine_init', 'norms_group_ws'])
@pytest.mark.usefixtures('_compiled_in_a_moment')
def test_three_steps_of_a_resnet_with_its_norm(name):
  config = _tiny(name)
  assert config.encoder_norm == config.projector_norm == name[len('norms_'):]
  config.image_size = 8
  moved = _take_three_steps(config, None)
  assert any(jax.tree.leaves(moved['encoder']['group4_block1']))


@pytest.mark.slow
@pytest.mark.parametrize('name', ablations.ABLATIONS)
@pytest.mark.usefixtures('_compiled_in_a_moment')
def test_three_steps_of_every_name(name, tiny_encoder):
  """With a ResNet where the encoder's norm is what is changed."""
  config = _tiny(name)
  _take_three_steps(
      config, tiny_encoder if config.encoder_norm == 'batch' else None)

"""Every rule of a configuration, and every configuration."""

import importlib
import pathlib

import pytest

from byol_jax import config as config_lib

CONFIGS = {
    'ablations': (None, 'tau_0,cifar10'),
    'imagenet_resnet50': ('40', '100', '300', '1000'),
    'imagenet_resnet50_gn_ws': (None,), 'imagenet_resnet200x2': (None,),
    'imagenette_resnet18': (None,),
    'cifar10_resnet18': ('solo', 'lightly'), 'folder': ('/images',),
    'quickstart': (None,), 'frames_pretrain': ('/frames',),
    'frames_segmentation': ('/labelled',)}


def _get(name, argument):
  module = importlib.import_module(f'configs.{name}')
  return module.get_config(*([argument] if argument else []))


def test_no_config_is_forgotten():
  folder = pathlib.Path(config_lib.__file__).parents[1] / 'configs'
  names = {path.stem for path in folder.glob('*.py')} - {'__init__'}
  # `workdir` is of a run, see import_deepmind_test.py.
  assert names - {'workdir'} == set(CONFIGS)


@pytest.mark.parametrize('name, argument', [
    (name, argument) for name, arguments in CONFIGS.items()
    for argument in arguments])
def test_configs(name, argument):
  """Each is valid, goes to JSON and back, and says what it costs."""
  config = _get(name, argument)
  config_lib.validate(config, num_devices=8)
  config_lib.run_length(config, 1_281_167)
  restored = config_lib.from_dict(config_lib.to_dict(config))
  assert config_lib.differences(config, restored) == []
  docstring = importlib.import_module(f'configs.{name}').__doc__
  for word in ('python -m byol_jax.', 'Cost', 'xpect'):
    assert word in docstring, word


@pytest.mark.parametrize('epochs, steps, warmup, rate', [
    (40, 12511, 3127, 0.45), (100, 31278, 3127, 0.45),
    (300, 93835, 3127, 0.3), (1000, 312784, 3127, 0.2)])
def test_presets_of_the_original(epochs, steps, warmup, rate):
  config = _get('imagenet_resnet50', str(epochs))
  assert config_lib.run_length(config, 1_281_167) == (steps, warmup)
  assert config.base_learning_rate == rate
  assert config.batch_size == 4096


@pytest.mark.parametrize('field, value, message', [
    ('encoder', 'resnet19', 'expected one of resnet10'),
    ('target', 'mean', 'expected one of ema'),
    ('base_tau', 1.5, 'expected in [0, 1]'),
    ('batch_size', 30, 'a multiple of 4 devices'),
    ('accumulation_steps', 3, 'x 3 accumulation'),
    ('image_size', 16, 'expected at least 32'),
    ('augment.view1.flip_prob', 2.0, 'augment.view1.flip_prob'),
    ('augment.view2.crop_area_range', (0.5, 0.1), 'in order'),
    ('augment.view2.crop_area_range', (0.5, 2.0), 'expected in [0, 1]'),
    ('augment.view1.hue', -0.1, 'at least 0'),
    ('log_every_steps', 0, 'expected at least 1'),
    ('test_image_size', 0, 'config.test_image_size is 0'),
    ('knn.max_train_examples', 0, 'expected at least 1'),
    ('linear.num_epochs', 0, 'expected at least 1'),
    ('linear.batch_size', 0, 'expected at least 1'),
    ('linear.momentum', 1.5, 'expected in [0, 1]'),
    ('linear.base_learning_rates', (-0.1,), 'expected at least 0'),
    ('norm_epsilon', 0.0, 'expected at least 1e-12'),
    ('weight_standardization_epsilon', 0.0, 'expected at least 1e-12'),
    ('encoder_norm', 'bn', 'expected one of batch, batch_local, group_ws, '
     'layer, instance, none, affine_init'),
    ('predictor_norm', 'weight', 'config.predictor_norm is \'weight\''),
    ('trust_coefficient', -1.0, 'expected at least 0'),
    ('predictor_learning_rate_multiplier', -1.0, 'expected at least 0'),
    ('seed', -1, 'config.seed is -1, expected at least 0'),
    ('base_learning_rate', float('nan'), 'expected finite numbers'),
    ('augment.view1.blur_sigma_range', (0.1, float('inf')), 'finite'),
    ('linear.base_learning_rates', (float('nan'),), 'finite'),
    ('augment.mean', (0.5,), 'expected three numbers'),
    ('augment.std', (0.2, 0.2, 0.2, 0.2), 'expected three numbers'),
    ('augment.std', (0.2, 0.0, 0.2), 'expected at least 1e-06'),
    ('linear.base_learning_rates', (0.1, -0.1), 'expected at least 0'),
    ('resnet.channels_per_group', (8, 8, 8), 'expected four numbers'),
    ('resnet.channels_per_group', (8, 8, 6, 8), 'expected multiples of 4'),
    ('resnet.channels_per_group', (8, 8, 0, 8), 'expected at least 1'),
    ('final_protocols', ('knn', 'svm'), "'svm'), expected one of knn, linear"),
])
def test_broken_rules(field, value, message):
  config = config_lib.get_base_config()
  config.batch_size = 64
  config_lib.set_field(config, field, value)
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.validate(config, num_devices=4)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('fields, message', [
    (dict(encoder_norm='group_ws', norm_groups=24),
     'config.norm_groups is 24 and config.resnet.width gives 64 channels, '
     'expected a divisor: 1, 2, 4, 8, 16, 32, 64'),
    ({'projector_norm': 'group_ws', 'projector.hidden_size': 100},
     'config.projector.hidden_size gives 100 channels, expected a divisor: '
     '1, 2, 4, 5, 10, 20, 25, 50'),
    # A group of one number is its own mean.
    ({'predictor_norm': 'group_ws', 'predictor.hidden_size': 16},
     'expected a divisor: 1, 2, 4, 8'),
    ({'encoder_norm': 'group_ws', 'resnet.channels_per_group': (
        32, 64, 64, 64)},  # in bottlenecks a quarter of it
     'config.resnet.channels_per_group gives 8 channels, expected'),
    (dict(projector_norm='affine_init', batch_size=1),
     'config.batch_size is 1 in 1 micro-batches, expected at least 2'),
    (dict(encoder_norm='affine_init', batch_size=8, accumulation_steps=8),
     'config.batch_size is 8 in 8 micro-batches, expected at least 2'),
    (dict(encoder_norm='instance', image_size=32),
     'config.image_size is 32 with config.encoder_norm=instance, expected '
     'more than 32'),
    (dict(encoder_norm='instance', test_image_size=32),
     'config.test_image_size is 32 with config.encoder_norm=instance'),
    ({'encoder_norm': 'none', 'resnet.zero_gamma': True}, 'needs scales'),
])
def test_norms_that_cannot_work(fields, message):
  config = config_lib.get_base_config()
  for field, value in fields.items():
    config_lib.set_field(config, field, value)
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.validate(config)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def test_a_head_without_layers_to_normalise_has_no_groups():
  config = config_lib.get_base_config()
  config.predictor_norm = 'group_ws'
  config.predictor.update(depth=1, hidden_size=1)
  config_lib.validate(config)


def test_a_custom_encoder_has_its_own_norm():
  config = config_lib.get_base_config()
  config.encoder_norm = 'layer'
  with pytest.raises(config_lib.ConfigError, match='build the layers into it'):
    config_lib.validate(config, custom_encoder=True)


@pytest.mark.parametrize('norms, expected', [
    (('batch', 'batch', 'batch'), ['norm_epsilon']),
    (('none', 'layer', 'none'), ['norm_epsilon']),
    (('none', 'none', 'none'), []),
    (('none', 'none', 'group_ws'), [
        'norm_epsilon', 'norm_groups', 'weight_standardization_epsilon'])])
def test_settings_of_norms_are_of_the_network_that_has_them(norms, expected):
  """Shapes do not show them: a resumed run would go on as another function."""
  config = config_lib.get_base_config()
  config.encoder_norm, config.projector_norm, config.predictor_norm = norms
  other = config.copy_and_resolve_references()
  other.update(
      norm_epsilon=1e-3, norm_groups=8, weight_standardization_epsilon=1e-4)
  lines = config_lib.network_differences(config, other)
  assert [line.split(':')[0] for line in lines] == expected
  # A head of one layer has none to normalise.
  config.predictor.depth = other.predictor.depth = 1
  assert 'norm_groups: 16, 8' not in config_lib.network_differences(
      config, other)


def test_negatives_need_l2():
  config = config_lib.get_base_config()
  config.beta, config.loss_normalization = 0.5, 'batch'
  with pytest.raises(config_lib.ConfigError, match='need l2'):
    config_lib.validate(config)


def test_unknown_field():
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.from_dict({'batchsize': 3})
  assert 'did you mean batch_size?' in str(error.value)


def test_wrong_type():
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.from_dict({'batch_size': 'many'})
  assert "config.batch_size is 'many'" in str(error.value)


def test_run_length():
  config = config_lib.get_base_config()
  config.batch_size, config.num_epochs, config.warmup_epochs = 32, 3, 1.0
  assert config_lib.run_length(config, 100) == (9, 3)
  config.total_steps, config.warmup_steps = 7, 0  # these win
  assert config_lib.run_length(config, 100) == (7, 0)
  config.total_steps = 0
  with pytest.raises(config_lib.ConfigError, match='0 steps'):
    config_lib.run_length(config, 100)
  config.total_steps, config.warmup_steps = 7, 8
  with pytest.raises(config_lib.ConfigError, match='longer than the run'):
    config_lib.run_length(config, 100)

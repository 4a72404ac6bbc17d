"""The base configuration, and every file of configs/."""

import importlib
import pathlib

import pytest

from byol_jax import config as config_lib
from byol_jax import config_changes
from byol_jax import config_rules

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
  config_rules.validate(config, num_devices=8)
  config_lib.run_length(config, 1_281_167)
  restored = config_lib.from_dict(config_lib.to_dict(config))
  assert config_changes.differences(config, restored) == []
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

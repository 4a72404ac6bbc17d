"""The paper's transfer datasets by name."""

import pytest
import tensorflow_datasets as tfds

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.evaluation import transfer_presets

_HELD = [name for name, p in transfer_presets.PRESETS.items() if p.tfds]


def test_all_twelve():
  assert list(transfer_presets.PRESETS) == [
      'food101', 'cifar10', 'cifar100', 'birdsnap', 'sun397', 'cars',
      'aircraft', 'voc2007', 'dtd', 'pets', 'caltech101', 'flowers102']


@pytest.mark.parametrize('name', _HELD)
def test_tfds_holds_it(name):
  tfds.builder_cls(transfer_presets.PRESETS[name].tfds.split('/')[0])
  fields = transfer_presets.expand(name)
  config = config_lib.get_base_config()
  for field, value in fields.items():
    config_lib.set_field(config, field, value)
  config_rules.validate(config)


def test_train_and_valid_share_a_split_where_tfds_has_but_one():
  assert transfer_presets.expand('cars') == {
      'data': 'tfds:cars196', 'train_split': 'train[:6494]',
      'valid_split': 'train[6494:]', 'test_split': 'test', 'metric': 'top1',
      'test_crop_ratio': 1.0}


def test_a_folder_of_ones_own():
  assert transfer_presets.expand('aircraft:/data/aircraft') == {
      'data': 'folder:/data/aircraft', 'train_split': 'train',
      'valid_split': 'valid', 'test_split': 'test',
      'metric': 'mean_per_class', 'test_crop_ratio': 1.0}


def test_what_is_no_preset_stays():
  assert transfer_presets.expand('tfds:food101') == {'data': 'tfds:food101'}


def test_what_tfds_does_not_hold():
  with pytest.raises(config_lib.ConfigError, match='--data=birdsnap:FOLDER'):
    transfer_presets.expand('birdsnap')


def test_a_folder_cannot_say_several_labels():
  with pytest.raises(
      config_lib.ConfigError, match='--data=voc2007, which is from TFDS'):
    transfer_presets.expand('voc2007:/data/voc')

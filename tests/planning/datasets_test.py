"""What is known of datasets, and asked for where it is not."""

import pytest

from byol_jax import config as config_lib
from byol_jax.planning import datasets


def _find(data, split='train', num_examples=None, num_classes=None):
  config = config_lib.get_base_config()
  config.data, config.train_split = data, split
  return datasets.find_facts(
      config, num_examples=num_examples, num_classes=num_classes)


@pytest.mark.parametrize('data', [
    'tfds:imagenet2012', 'tfds:imagenet2012:5.1.0', 'tfds:imagenet2012/5.*.*',
    'tfds:imagenet2012:5.*.*'])
def test_imagenet(data):
  assert _find(data) == datasets.Facts(1_281_167, 1000)


def test_a_version_of_imagenette():
  assert _find('tfds:imagenette/160px-v2').num_examples == 9_469
  with pytest.raises(config_lib.ConfigError, match='--num_examples'):
    _find('tfds:imagenette/160px')  # another split of the images


def test_flags_win():
  assert _find('tfds:cifar10', num_examples=7) == datasets.Facts(7, 10)
  assert _find('tfds:cifar10', num_classes=0) == datasets.Facts(50_000, None)


@pytest.mark.parametrize('data, split', [
    ('folder:/images', 'train'), ('tfds:imagenet2012', 'train[:10%]'),
    ('fake:64', 'train')])
def test_what_is_not_known_is_asked_for(data, split):
  with pytest.raises(config_lib.ConfigError) as raised:
    _find(data, split, num_examples=10)
  assert data in str(raised.value) and '--num_classes' in str(raised.value)
  assert _find(data, split, 10, 0) == datasets.Facts(10, None)

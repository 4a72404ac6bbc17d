import os

import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.config import ConfigError
from byol_jax.data import sources

_IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)


def _open(data: str, split: str = 'train', image_size: int = 16):
  config = config_lib.get_base_config()
  config.data = data
  config.image_size = image_size
  return sources.create_source(config, split)


def _save(tmp_path, **arrays) -> str:
  np.savez(tmp_path / 'a.npz', **arrays)
  return f'arrays:{tmp_path}/a.npz'


def test_images_alone_are_the_training_split(tmp_path):
  source = _open(_save(tmp_path, image=_IMAGES))
  assert source.num_examples == 5 and source.num_classes is None
  assert not source.has_labels and source.labels is None
  np.testing.assert_array_equal(source.images, _IMAGES)


def test_splits_labels_and_names(tmp_path):
  data = _save(
      tmp_path, train_image=_IMAGES, train_label=[0, 1, 2, 0, 1],
      test_image=_IMAGES[:2, ..., :1], test_label=[0, 1],
      class_names=['a', 'b', 'c'])
  train, test = _open(data, 'train'), _open(data, 'test')
  assert train.num_classes == test.num_classes == 3
  assert train.class_names == ('a', 'b', 'c')
  np.testing.assert_array_equal(train.labels, [0, 1, 2, 0, 1])
  # One channel is shown as grey.
  np.testing.assert_array_equal(
      test.images, np.repeat(_IMAGES[:2, ..., :1], 3, axis=3))


def test_changed_files_have_another_fingerprint(tmp_path):
  first = _open(_save(tmp_path, image=_IMAGES)).fingerprint
  assert first == _open(f'arrays:{tmp_path}/a.npz').fingerprint
  data = _save(tmp_path, image=_IMAGES)
  os.utime(tmp_path / 'a.npz', ns=(1, 1))  # another moment, surely
  assert first != _open(data).fingerprint


def test_several_classes_at_once(tmp_path):
  label = [[1, 0, -1], [0, 0, 0], [1, 1, 1], [0, -1, 0], [0, 0, 1]]
  source = _open(_save(tmp_path, image=_IMAGES, label=label))
  assert source.is_multi_label and source.num_classes == 3
  np.testing.assert_array_equal(source.labels, label)


@pytest.mark.parametrize('arrays, split, message', [
    (dict(image=_IMAGES), 'test', r"no split 'test'; its splits are \['train'"),
    (dict(other=_IMAGES), 'train', "expected 'image', or 'train_image'"),
    (dict(image=_IMAGES.astype(np.float32)), 'train', 'float32.*uint8'),
    (dict(image=_IMAGES[0]), 'train', r'uint8\[6, 7, 3\]; expected'),
    (dict(image=_IMAGES[:0]), 'train', 'not empty'),
    (dict(image=_IMAGES, label=[1, 2]), 'train', r'labels are int64\[2\]'),
    (dict(image=_IMAGES, label=[1, 2, 3, 4, -1]), 'train', 'none negative'),
    (dict(image=_IMAGES, label=[1, 2, 3, 4, 2**40]), 'train',
     'largest label is 1099511627776; expected .* fewer than 1000000'),
    (dict(train_image=_IMAGES, train_label=[0, 1, 0, 1, 0], test_label=[2],
          class_names=['a', 'b']), 'train', 'has 2 names; expected at least 3'),
    (dict(train_image=_IMAGES, train_label=[0, 1, 0, 1, 0], test_image=_IMAGES,
          test_label=[0, 3, 0, 0, 0]), 'test',
     'test_label goes up to 3 and train_label to 1'),
    (dict(image=np.array([None])), 'train', 'not a readable .npz'),
    (dict(image=_IMAGES, label=np.full((5, 3), 2)), 'train',
     r'labels are int64\[5, 3\]; .* each 1, 0 or -1'),
])
def test_wrong_arrays_are_one_clear_line(tmp_path, arrays, split, message):
  with pytest.raises(ConfigError, match=message):
    _open(_save(tmp_path, **arrays), split)


def test_wrong_files_are_one_clear_line(tmp_path):
  (tmp_path / 'text.npz').write_text('no archive')
  np.save(tmp_path / 'single.npy', _IMAGES)
  with pytest.raises(ConfigError, match='not a readable .npz'):
    _open(f'arrays:{tmp_path}/text.npz')
  with pytest.raises(ConfigError, match='not a readable .npz'):
    _open(f'arrays:{tmp_path}/single.npy')
  with pytest.raises(ConfigError, match='no such file'):
    _open(f'arrays:{tmp_path}/none.npz')


def test_fake_images_are_the_same_every_time_and_learnable():
  first, again = _open('fake'), _open('fake')
  assert first.num_examples == 1024 and first.num_classes == 10
  np.testing.assert_array_equal(first.images, again.images)
  test = _open('fake:30', 'test')
  assert test.images.shape == (30, 16, 16, 3)
  # The nearest class mean of the training split tells the class.
  means = np.stack([first.images[first.labels == c].mean(0)
                    for c in range(10)])
  distance = ((test.images[:, np.newaxis] - means)**2).sum((2, 3, 4))
  assert np.mean(distance.argmin(1) == test.labels) > 0.9


@pytest.mark.parametrize('data, split, message', [
    ('fake', 'val', "no split 'val'"),
    ('fake:0', 'train', 'number of images'),
    ('fake:many', 'train', 'number of images'),
    ('imagenet', 'train', "data is 'imagenet'; expected tfds:NAME"),
    ('tfds:', 'train', 'expected tfds:NAME'),
])
def test_wrong_data_is_one_clear_line(data, split, message):
  with pytest.raises(ConfigError, match=message):
    _open(data, split)

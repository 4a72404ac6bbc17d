"""TFDS datasets that the test itself prepares; nothing is downloaded."""

import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.config import ConfigError
from byol_jax.data import download
from byol_jax.data import examples
from byol_jax.data import pipeline
from byol_jax.data import records
from byol_jax.data import sources

import tensorflow as tf  # isort: skip
import tensorflow_datasets as tfds  # isort: skip

_COUNT = 12


def _pixels(i: int, fixed: bool) -> np.ndarray:
  height = 9 if fixed else 9 + i
  return np.full((height, 11, 3), 20 * i, np.uint8)


def _prepare(data_dir, *, fixed: bool, labelled: bool = True,
             num_shards: int = 1):
  """Writes the dataset `squares`: example i has grey level 20 i, class i % 3.
  """
  with tfds.core.registered.skip_registration():

    class Squares(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version('1.2.0')

      def _info(self):
        shape = (9 if fixed else None, 11, 3)
        features = {'picture': tfds.features.Image(
            shape=shape, encoding_format='png' if fixed else 'jpeg')}
        if labelled:
          features['kind'] = tfds.features.ClassLabel(names=['a', 'b', 'c'])
        features['text'] = tfds.features.Text()
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features))

      def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

      def _generate_examples(self):
        for i in range(_COUNT):
          example = {'picture': _pixels(i, fixed), 'text': 'x' * i}
          yield i, example | ({'kind': i % 3} if labelled else {})

  Squares(data_dir=data_dir).download_and_prepare(
      download_config=tfds.download.DownloadConfig(num_shards=num_shards))


def _open(data_dir, name='squares', split='train', cache_bytes=0):
  config = config_lib.get_base_config()
  config.data = f'tfds:{name}'
  config.data_dir = str(data_dir)
  config.cache_bytes = cache_bytes
  return sources.create_source(config, split)


def _level(source, index):
  return int(round(np.mean(pipeline.read_image(source, index)) / 20))


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  path = tmp_path_factory.mktemp('tfds')
  _prepare(path, fixed=False, num_shards=3)
  return path


def test_records_are_read_by_index(data_dir):
  source = _open(data_dir)
  assert isinstance(source, examples.EncodedSource)
  assert source.num_examples == _COUNT
  assert source.class_names == ('a', 'b', 'c') and source.num_classes == 3
  found = [_level(source, i) for i in range(_COUNT)]
  assert sorted(found) == list(range(_COUNT))
  for i, level in enumerate(found):
    index = tf.constant(i, tf.int64)
    assert int(source.load(index)['label']) == level % 3
    assert pipeline.read_image(source, i).shape == (9 + level, 11, 3)


def test_slices_are_parts_of_the_whole(data_dir):
  whole = [_level(_open(data_dir), i) for i in range(_COUNT)]
  part = _open(data_dir, split='train[2:9]')
  assert [_level(part, i) for i in range(part.num_examples)] == whole[2:9]


@pytest.mark.parametrize('name', ['squares:1.2.0', 'squares/1.2.0',
                                  'squares:1.*.*'])
def test_versions(data_dir, name):
  assert _open(data_dir, name=name).num_examples == _COUNT


def test_views_of_records(data_dir):
  config = config_lib.get_base_config()
  config.image_size, config.batch_size = 16, 4
  batches = list(pipeline.create_train_dataset(
      _open(data_dir), config, total_steps=3).as_numpy_iterator())
  index = np.concatenate([b['index'] for b in batches])
  assert sorted(index) == list(range(_COUNT))
  assert batches[0]['views'][0].shape == (4, 16, 16, 3)
  assert batches[0]['label'].dtype == np.int32


def test_small_images_of_one_size_are_decoded_once(tmp_path):
  _prepare(tmp_path, fixed=True)
  source = _open(tmp_path, cache_bytes=10**6)
  assert isinstance(source, examples.InMemorySource)
  levels = source.images[:, 0, 0, 0] // 20
  np.testing.assert_array_equal(source.labels, levels % 3)
  # The same order as by index.
  encoded = _open(tmp_path, cache_bytes=10)
  assert isinstance(encoded, examples.EncodedSource)
  np.testing.assert_array_equal(
      levels, [_level(encoded, i) for i in range(_COUNT)])


def test_labels_are_optional(tmp_path):
  _prepare(tmp_path, fixed=False, labelled=False)
  source = _open(tmp_path)
  assert not source.has_labels
  assert set(source.load(tf.constant(0, tf.int64))) == {'image'}


def test_several_classes_at_once_and_file_names(tmp_path):
  """As VOC is: all labels, and those that are not difficult."""
  with tfds.core.registered.skip_registration():

    class Voc(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version('1.0.0')

      def _info(self):
        labels = tfds.features.Sequence(
            tfds.features.ClassLabel(names=['a', 'b', 'c']))
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({
                'image': tfds.features.Image(encoding_format='jpeg'),
                'image/filename': tfds.features.Text(),
                'labels': labels, 'labels_no_difficult': labels}))

      def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

      def _generate_examples(self):
        for i, (labels, sure) in enumerate((
            ([0, 2], [0]), ([1], [1]), ([], []), ([0, 1, 2], [1, 2]))):
          yield i, {
              'image': _pixels(i, False), 'image/filename': f'{i}.jpg',
              'labels': labels, 'labels_no_difficult': sure}

  Voc(data_dir=tmp_path).download_and_prepare()
  source = _open(tmp_path, name='voc:1.0.0')
  assert source.is_multi_label and source.num_classes == 3
  wanted = {0: [1, 0, -1], 1: [0, 1, 0], 2: [0, 0, 0], 3: [-1, 1, 1]}
  names = source.read_names()
  for i in range(4):
    level = _level(source, i)
    label = source.load(tf.constant(i, tf.int64))['label']
    np.testing.assert_array_equal(label, wanted[level])
    assert label.dtype == tf.int32 and names[i] == f'{level}.jpg'


def test_index_is_read_once(data_dir, monkeypatch):
  _open(data_dir)
  monkeypatch.setattr(records, '_scan', lambda *_: pytest.fail('read again'))
  _open(data_dir)


def test_damaged_files_are_one_clear_line(tmp_path):
  _prepare(tmp_path, fixed=False)
  (file,) = tmp_path.glob('squares/1.2.0/*.tfrecord*')
  contents = file.read_bytes()
  file.write_bytes(contents[:-5])
  with pytest.raises(ConfigError, match='cut short'):
    _open(tmp_path)
  (length,) = np.frombuffer(contents[:8], np.uint64)
  file.write_bytes(contents[int(length) + 16:])
  with pytest.raises(ConfigError, match='11 records; 12 were expected'):
    _open(tmp_path)
  file.unlink()
  with pytest.raises(ConfigError, match='is missing'):
    _open(tmp_path)


@pytest.mark.parametrize('name, split, message', [
    ('squares', 'test', r"no split 'test'; its splits are \['train'\]"),
    ('squares', 'train[', 'no split'),
    ('imagenet2013', 'train', "no dataset 'imagenet2013'; close.*imagenet2012"),
    ('qqqqqqqq', 'train', 'such as cifar10'),
    ('mnist:9.9.9', 'train', '9.9.9'),
    ('not a name!', 'train', 'not a name!'),
])
def test_unknown_things_are_one_clear_line(data_dir, name, split, message):
  with pytest.raises(ConfigError, match=message):
    _open(data_dir, name=name, split=split)


def test_failing_download_is_one_clear_line(tmp_path, monkeypatch):
  def fail(name, data_dir):
    assert (name, data_dir) == ('mnist', str(tmp_path))
    raise download.DownloadError('nothing answered in 20 seconds')

  monkeypatch.setattr(download, 'download_and_prepare', fail)
  with pytest.raises(
      ConfigError, match='mnist is not prepared in .*nothing answered'):
    _open(tmp_path, name='mnist')

"""However many processes: nothing twice, nothing lost, nothing read in vain."""

import collections
import dataclasses
import functools

import numpy as np
from PIL import Image
import pytest

from byol_jax import config as config_lib
from byol_jax.data import pipeline
from byol_jax.data import render
from byol_jax.data import sources

import tensorflow as tf  # isort: skip
import tensorflow_datasets as tfds  # isort: skip

_N = 23  # a prime, so that no batch ends with an epoch
_BATCH = 24
_STEPS = 3 * _N // _BATCH  # of three epochs


def _pixels(i: int) -> np.ndarray:
  return np.full((9, 11 + i % 2, 3), 10 * i, np.uint8)


def _make_arrays(root) -> str:
  images = np.stack([_pixels(i)[:, :11] for i in range(_N)])
  np.savez(root / 'a.npz', image=images, label=np.arange(_N) % 3)
  return f'arrays:{root / "a.npz"}'


def _make_folder(root) -> str:
  for i in range(_N):
    path = root / 'train' / 'abc'[i % 3] / f'{i:02d}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_pixels(i)).save(path)
  return f'folder:{root}'


def _make_tfrecord(root) -> str:
  def feature(**kind):
    return tf.train.Feature(**kind)

  for shard in range(5):
    with tf.io.TFRecordWriter(f'{root}/train-{shard:05d}-of-00005') as writer:
      for i in range(shard, _N, 5):
        writer.write(tf.train.Example(features=tf.train.Features(feature={
            'image': feature(bytes_list=tf.train.BytesList(
                value=[tf.io.encode_png(_pixels(i)).numpy()])),
            'label': feature(int64_list=tf.train.Int64List(value=[i % 3])),
        })).SerializeToString())
  return f'tfrecord:{root}'


def _make_tfds(root) -> str:
  with tfds.core.registered.skip_registration():

    class Squares(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version('1.0.0')

      def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({
                'image': tfds.features.Image(encoding_format='png'),
                'label': tfds.features.ClassLabel(num_classes=3)}))

      def _split_generators(self, dl_manager):
        return {'train': ((i, {'image': _pixels(i), 'label': i % 3})
                          for i in range(_N))}

      def _generate_examples(self):
        raise NotImplementedError

  Squares(data_dir=root).download_and_prepare(
      download_config=tfds.download.DownloadConfig(num_shards=4))
  return 'tfds:squares'


_MAKE = {'arrays': _make_arrays, 'folder': _make_folder,
         'tfrecord': _make_tfrecord, 'tfds': _make_tfds}


@pytest.fixture(scope='module')
def open_source(tmp_path_factory):
  @functools.cache
  def create(kind: str):
    root = tmp_path_factory.mktemp(kind)
    config = config_lib.get_base_config()
    config.data, config.data_dir = _MAKE[kind](root), str(root)
    config.cache_bytes = 0
    return sources.create_source(config, 'train')

  return create


@pytest.fixture
def config(monkeypatch):
  # Colours have their own tests, and take most of the time to trace.
  monkeypatch.setattr(render, 'make_view', lambda _: render.IMAGE)
  config = config_lib.get_base_config()
  config.image_size, config.batch_size = 8, _BATCH
  return config


def _create(what: str, source, config, **options):
  if what == 'train':
    return pipeline.create_train_dataset(
        source, config, total_steps=_STEPS, **options)
  if what == 'labelled':
    return pipeline.create_labelled_dataset(
        source, config, batch_size=_BATCH, total_steps=_STEPS, seed=1,
        **options)
  return pipeline.create_eval_dataset(
      source, config, batch_size=_BATCH, **options)


def _read(what: str, source, config, count: int = 1) -> list[list[dict]]:
  """Batches of each of `count` processes."""
  return [
      list(_create(what, source, config, process_index=i, process_count=count)
           .as_numpy_iterator()) for i in range(count)]


def _assert_same_batches(what, source, config, count):
  (whole,) = _read(what, source, config)
  parts = _read(what, source, config, count)
  assert {len(part) for part in parts} == {len(whole)}
  for step, expected in enumerate(whole):
    joined = tf.nest.map_structure(
        lambda *rows: np.concatenate(rows), *(part[step] for part in parts))
    tf.nest.map_structure(np.testing.assert_array_equal, joined, expected)


# Every kind of dataset and every kind of source once; slow tests cross them.
@pytest.mark.parametrize('kind, what, count', [
    ('arrays', 'train', 3), ('arrays', 'eval', 2), ('folder', 'train', 4),
    ('folder', 'eval', 3), ('tfrecord', 'labelled', 2), ('tfds', 'train', 2)])
def test_processes_together_make_the_batches_of_one(
    open_source, config, kind, what, count):
  _assert_same_batches(what, open_source(kind), config, count)


@pytest.mark.slow
@pytest.mark.parametrize('what', ['train', 'labelled', 'eval'])
@pytest.mark.parametrize('kind', list(_MAKE))
@pytest.mark.parametrize('count', [2, 3, 4, 6, 8, 12, 24])
def test_any_number_of_processes(open_source, config, kind, what, count):
  _assert_same_batches(what, open_source(kind), config, count)


@pytest.mark.parametrize('kind', list(_MAKE))
def test_an_epoch_is_every_example_once(open_source, config, kind):
  """The tail rule: E epochs of N are E * N // batch_size whole batches."""
  source = open_source(kind)
  assert source.num_examples == _N
  config.num_epochs, config.warmup_epochs = 3, 0
  assert config_lib.run_length(config, _N) == (_STEPS, 0)
  (batches,) = _read('labelled', source, config)
  index = np.concatenate([batch['index'] for batch in batches])
  assert len(index) == 3 * _N // _BATCH * _BATCH
  for epoch in range(3):  # the last is cut short by less than a batch
    rows = index[epoch * _N:(epoch + 1) * _N]
    assert len(rows) > _N - _BATCH and len(set(rows)) == len(rows)
    assert epoch == 2 or len(rows) == _N
  (batches,) = _read('eval', source, config)
  index = np.concatenate([batch['index'] for batch in batches])
  np.testing.assert_array_equal(
      index, [*range(_N), *[-1] * (-_N % _BATCH)])


_ALL = [(kind, what, count) for what in ('train', 'labelled', 'eval')
        for kind, count in (('folder', 3), ('tfrecord', 2), ('tfds', 2))]


@pytest.mark.parametrize('kind, what, count', [
    case if case[:2] in (
        ('folder', 'train'), ('folder', 'eval'), ('tfrecord', 'labelled'),
        ('tfds', 'eval')) else pytest.param(*case, marks=pytest.mark.slow)
    for case in _ALL])
def test_a_process_reads_its_share_and_nothing_else(
    open_source, config, kind, what, count):
  source = open_source(kind)
  reads = tf.Variable(tf.zeros([_N], tf.int32))

  def load(index):
    counted = reads.scatter_add(tf.IndexedSlices(tf.constant(1), index))
    with tf.control_dependencies([counted]):
      return source.load(index)

  counting = dataclasses.replace(source, load=load)
  for process in range(count):
    reads.assign(tf.zeros_like(reads))
    batches = list(_create(
        what, counting, config, process_index=process, process_count=count
    ).as_numpy_iterator())
    used = collections.Counter(
        np.concatenate([batch['index'] for batch in batches]).tolist())
    found = reads.numpy()
    # The rows that fill up the last batch read the first example.
    found[0] -= used.pop(-1, 0)
    assert dict(used) == {i: n for i, n in enumerate(found.tolist()) if n}

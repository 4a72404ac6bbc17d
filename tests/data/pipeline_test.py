"""Batches: which, in which order, the same for everybody."""

import hashlib
import io
import pathlib
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest

from byol_jax import config as config_lib
from byol_jax import platforms
from byol_jax.config import ConfigError
from byol_jax.data import examples
from byol_jax.data import pipeline

import tensorflow as tf  # isort: skip

_N = 21


def _pixels() -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (_N, 28, 26, 3), np.uint8)


def _in_memory() -> examples.InMemorySource:
  return examples.InMemorySource(
      name='test', num_examples=_N, num_classes=7, images=_pixels(),
      labels=np.arange(_N, dtype=np.int32) % 7)


def _encoded(kind: str) -> examples.EncodedSource:
  """The same images as files, without labels."""
  files = []
  for pixels in _pixels():
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    files.append(buffer.getvalue())
  files = tf.constant(files)
  return examples.EncodedSource(
      name='test', num_examples=_N, load=lambda index: {'image': files[index]})


def _config():
  config = config_lib.get_base_config()
  config.image_size = 24
  config.batch_size = 8
  return config


@pytest.fixture
def config():
  return _config()


@pytest.fixture(scope='module')
def whole():
  """Six batches of `_in_memory()` by one process, never interrupted."""
  return _batches(_in_memory(), _config())


def _batches(source, config, total_steps=6, **kwargs):
  return list(pipeline.create_train_dataset(
      source, config, total_steps=total_steps, **kwargs).as_numpy_iterator())


def _assert_equal(found, expected):
  tf.nest.map_structure(np.testing.assert_array_equal, found, expected)


def test_batch_is_as_described(whole):
  batch = whole[0]
  assert set(batch) == {'views', 'index', 'label'}
  assert batch['index'].dtype == batch['label'].dtype == np.int32
  np.testing.assert_array_equal(batch['label'], batch['index'] % 7)
  assert len(batch['views']) == 2
  for view in batch['views']:
    assert view.dtype == np.float32 and view.shape == (8, 24, 24, 3)
    assert view.min() >= 0.0 and view.max() <= 1.0
  assert np.abs(batch['views'][0] - batch['views'][1]).mean((1, 2, 3)).min() > 0


def _digest():
  """Of batches from memory and from files, to the bit."""
  digest = hashlib.sha256()
  for source in (_in_memory(), _encoded('JPEG')):
    for leaf in tf.nest.flatten(_batches(source, _config(), 2)):
      digest.update(leaf.tobytes())
  return digest.hexdigest()


def test_graphs_that_jobs_improve_make_the_same_batches():
  """The suite's are as they are written, see `conftest`.

  TensorFlow does not change its mind about that, so it takes a process.
  """
  done = subprocess.run(
      [sys.executable, '-c',
       'from tests import conftest\n'
       'from tests.data import pipeline_test\n'
       'conftest.have_tensorflow_compile_quickly()\n'
       'print(pipeline_test._digest())'],
      cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True,
      timeout=120, check=False)
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == [_digest()]


def test_epochs_are_every_example_once_and_nothing_is_dropped(config):
  config.batch_size = 9
  index = np.concatenate(
      [b['index'] for b in _batches(_in_memory(), config, 3 * _N // 9)])
  for epoch in index.reshape(3, _N):
    assert sorted(epoch) == list(range(_N))


@pytest.mark.parametrize('make, counts', [
    (_in_memory, (2, 4)), (lambda: _encoded('JPEG'), (2,))])
def test_any_number_of_processes_makes_the_same_batches(config, make, counts):
  source = make()
  alone = _batches(source, config)
  for count in counts:
    parts = [_batches(source, config, process_index=i, process_count=count)
             for i in range(count)]
    joined = [tf.nest.map_structure(lambda *x: np.concatenate(x), *step)
              for step in zip(*parts, strict=True)]
    _assert_equal(joined, alone)


def test_resuming_continues_bit_for_bit(config, whole):
  source = _in_memory()
  assert len(whole) == 6
  for start in (0, 5):
    _assert_equal(_batches(source, config, start_step=start), whole[start:])


def test_batches_of_several_chunks_are_those_of_one(
    config, whole, monkeypatch):
  monkeypatch.setattr(pipeline, '_MAX_CHUNK_ROWS', 4)
  monkeypatch.setattr(pipeline, '_MIN_CHUNK_ROWS', 2)
  _assert_equal(_batches(_in_memory(), config, 2), whole[:2])


def test_who_lets_go_of_an_iterator_does_not_wait(config):
  """For TensorFlow's autotuner, which may sleep for a minute."""
  for source in (_in_memory(), _encoded('PNG')):
    for dataset in (
        pipeline.create_train_dataset(source, config, total_steps=5),
        pipeline.create_labelled_dataset(
            source, config, batch_size=4, total_steps=5, seed=0),
        pipeline.create_eval_dataset(source, config, batch_size=4)):
      assert dataset.options().autotune.enabled is False


def test_batches_ahead_do_not_grow_with_the_cores(config, monkeypatch):
  """They may take gigabytes."""
  monkeypatch.setattr(platforms, 'cores', lambda: 64)
  config.batch_size = 64
  seen = set()

  def load(index):
    tf.py_function(lambda i: seen.add(int(i)), [index], [])
    return {'image': tf.io.encode_png(tf.zeros([24, 24, 3], tf.uint8))}

  source = examples.EncodedSource(
      name='test', num_examples=64 * 60, load=load)
  iterator = pipeline.create_train_dataset(
      source, config, total_steps=60).as_numpy_iterator()
  next(iterator)
  drawn = 0
  while drawn < len(seen):  # until nothing more is made ahead
    drawn = len(seen)
    time.sleep(2)
  assert 64 <= drawn < 64 * 12


@pytest.mark.parametrize('rows', [16, 64, 61, 4096])
@pytest.mark.parametrize('cores', [2, 96])
def test_nor_do_chunks_of_images_in_memory(rows, cores, monkeypatch):
  monkeypatch.setattr(platforms, 'cores', lambda: cores)
  found = pipeline._Rows(rows, process_index=0, process_count=1)
  assert found.per_chunk * found.chunks_per_step == rows
  assert found.per_chunk * found.chunks_at_once <= 2 * rows
  # And yet they keep as many cores busy as they can.
  busy = min(cores, 2 * rows // (61 if rows == 61 else 8))
  assert found.chunks_at_once == busy


def test_seed_changes_order_and_views(config, whole):
  first = whole[0]
  config.seed = 1
  other, *_ = _batches(_in_memory(), config, 1)
  assert np.any(first['index'] != other['index'])
  row, same = np.nonzero(first['index'][:, None] == other['index'])
  assert np.all(np.any(
      first['views'][0][row] != other['views'][0][same], (1, 2, 3)))


def test_in_memory_and_encoded_sources_agree(config, whole):
  found = _batches(_encoded('PNG'), config, 2)
  for batch, other in zip(found, whole[:2], strict=True):
    assert 'label' not in batch
    np.testing.assert_array_equal(batch['index'], other['index'])
    for view, other_view in zip(batch['views'], other['views'], strict=True):
      np.testing.assert_allclose(view, other_view, atol=2e-4)


def test_careful_pipelines_make_the_same_batches(config):
  """Five of eight examples each: two and a half times those placed at once."""
  source = _encoded('JPEG')
  _assert_equal(_batches(source, config, 5, careful=True),
                _batches(source, config, 5))


@pytest.mark.parametrize('careful', [False, True])
def test_what_the_step_makes_views_of_agrees(config, careful):
  """Of images in memory and of encoded ones."""
  found, expected = (
      next(pipeline.create_train_dataset(
          source, config, total_steps=1, on_device=True, **options
      ).as_numpy_iterator())
      for source, options in ((_encoded('PNG'), {'careful': careful}),
                              (_in_memory(), {})))
  for crops, others in zip(found['crops'], expected['crops'], strict=True):
    assert crops.shape == (8, 3, 24, 24)
    np.testing.assert_array_equal(crops, others)


@pytest.mark.parametrize('change', [
    dict(blur_prob=0.0), dict(hue=0.0), dict(jitter_prob=0.0)])
def test_switching_one_thing_off_leaves_the_other_draws(config, change):
  """Images that were not touched by it keep every bit."""
  config.augment.view1.update(blur_prob=0.3, solarize_prob=0.5, jitter_prob=0.5)
  before, *_ = _batches(_in_memory(), config, 1)
  config.augment.view1.update(change)
  after, *_ = _batches(_in_memory(), config, 1)
  same = np.all(before['views'][0] == after['views'][0], (1, 2, 3))
  assert 0 < same.sum() < 8
  np.testing.assert_array_equal(before['views'][1], after['views'][1])


def test_everything_off_is_the_plain_crop(config):
  for view in (config.augment.view1, config.augment.view2):
    view.update(crop_area_range=(1.0, 1.0), crop_aspect_ratio_range=(1.0, 1.0),
                flip_prob=0.0, jitter_prob=0.0, grayscale_prob=0.0,
                blur_prob=0.0, solarize_prob=0.0)
  source = examples.InMemorySource(
      name='square', num_examples=_N, images=_pixels()[:, :26])
  batch, *_ = _batches(source, config, 1)
  np.testing.assert_array_equal(*batch['views'])
  resized = tf.image.resize(
      source.images[batch['index']], [24, 24], 'bicubic') / 255.0
  np.testing.assert_allclose(
      batch['views'][0], np.clip(resized, 0, 1), atol=1e-5)


def test_evaluation_is_every_example_once_in_order(config):
  config.test_crop_ratio = 1.0
  source = _in_memory()
  batches = list(pipeline.create_eval_dataset(
      source, config, batch_size=8, image_size=26).as_numpy_iterator())
  assert len(batches) == 3
  joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
  np.testing.assert_array_equal(joined['mask'], np.arange(24) < _N)
  np.testing.assert_array_equal(joined['index'][:_N], np.arange(_N))
  np.testing.assert_array_equal(joined['label'][:_N], source.labels)
  assert np.all(joined['index'][_N:] == -1) and np.all(
      joined['label'][_N:] == -1)
  center = source.images[:, 1:27].astype(np.float32) / np.float32(255)
  np.testing.assert_allclose(joined['image'][:_N], center, atol=1e-6)


def test_evaluation_is_shared_by_processes_and_limited(config):
  def batches(**kwargs):
    return list(pipeline.create_eval_dataset(
        _encoded('JPEG'), config, batch_size=4, limit=6,
        **kwargs).as_numpy_iterator())

  whole = batches()
  assert len(whole) == 2 and whole[0]['image'].shape == (4, 24, 24, 3)
  index = np.concatenate([b['index'] for b in whole])
  assert len(set(index[:6])) == 6 and np.all(index[6:] == -1)
  parts = [batches(process_index=i, process_count=2) for i in range(2)]
  _assert_equal(
      [tf.nest.map_structure(lambda *x: np.concatenate(x), *step)
       for step in zip(*parts, strict=True)], whole)


def _labelled(config, total_steps=6, **options):
  return list(pipeline.create_labelled_dataset(
      _in_memory(), config, batch_size=7, total_steps=total_steps, seed=3,
      **options).as_numpy_iterator())


def test_labelled_training_crops_and_flips_only(config):
  config.augment.view1.update(crop_area_range=(1.0, 1.0),
                              crop_aspect_ratio_range=(1.0, 1.0))
  batches = _labelled(config)
  assert len(batches) == 6
  index = np.concatenate([b['index'] for b in batches])
  assert sorted(index[:_N]) == sorted(index[_N:]) == list(range(_N))
  image = np.concatenate([b['image'] for b in batches])
  # Each example comes out as one of two mirror images.
  for i in range(_N):
    first, second = image[index == i]
    plain = [np.abs(first - second).max(),
             np.abs(first - second[:, ::-1]).max()]
    assert min(plain) < 1.0 and first.shape == (24, 24, 3)
  assert set(batches[0]) == {'image', 'index', 'label'}


def test_labelled_training_goes_on_where_it_stopped(config):
  whole = _labelled(config)
  _assert_equal(_labelled(config, start_step=4), whole[4:])


def test_labelled_training_on_a_subset(config):
  subset = np.array([2, 3, 5, 7, 11])
  index = np.concatenate([
      b['index'] for b in _labelled(config, 5, index=subset)])
  assert sorted(index) == sorted([*subset] * 7)
  assert sorted(index[:5]) == list(subset)


def test_evaluation_goes_on_where_it_stopped(config):
  def batches(**kwargs):
    return list(pipeline.create_eval_dataset(
        _encoded('JPEG'), config, batch_size=4, **kwargs).as_numpy_iterator())

  _assert_equal(batches(start_step=2), batches()[2:])
  assert batches(start_step=len(batches())) == []


def test_several_classes_at_once(config):
  label = np.eye(3, dtype=np.int32)[[0, 1, 2, 1, 0]] - np.eye(
      3, dtype=np.int32)[[1, 2, 0, 0, 1]]
  source = examples.InMemorySource(
      name='many', num_examples=5, num_classes=3, is_multi_label=True,
      images=np.zeros((5, 4, 4, 3), np.uint8), labels=label)
  got = list(pipeline.create_eval_dataset(
      source, config, batch_size=4).as_numpy_iterator())
  np.testing.assert_array_equal(
      np.concatenate([b['label'] for b in got]),
      np.concatenate([label, np.full((3, 3), -1)]))
  (batch,) = pipeline.create_labelled_dataset(
      source, config, batch_size=5, total_steps=1, seed=0
  ).as_numpy_iterator()
  np.testing.assert_array_equal(batch['label'], label[batch['index']])


def test_batch_must_be_divisible_by_processes(config):
  with pytest.raises(ConfigError, match='8 cannot be divided by 3'):
    _batches(_in_memory(), config, process_count=3)


def test_one_pixel_images_make_views(config):
  source = examples.InMemorySource(
      name='dot', num_examples=2,
      images=np.full((2, 1, 1, 3), 51, np.uint8))
  config.augment.view2.update(jitter_prob=0.0, grayscale_prob=0.0,
                              blur_prob=0.0, solarize_prob=0.0)
  batch, *_ = _batches(source, config, 1)
  np.testing.assert_allclose(batch['views'][1], 0.2, atol=1e-6)

"""Examples that rot in the middle of a run: replaced, counted, named."""

import functools
import os

import numpy as np
from PIL import Image
import pytest

from byol_jax import config as config_lib
from byol_jax.config import ConfigError
from byol_jax.data import examples
from byol_jax.data import pipeline
from byol_jax.data import sources
from byol_jax.data import unreadable

import tensorflow as tf  # isort: skip

_N = 10
_BATCH = 5


@pytest.fixture
def config():
  config = config_lib.get_base_config()
  config.image_size, config.batch_size = 16, _BATCH
  config.cache_bytes = 0
  config.max_bad_image_share = 0.3
  return config


@pytest.fixture
def files(tmp_path):
  """Images of two classes; number i has grey level 20 i."""
  paths = []
  for i in range(_N):
    path = tmp_path / 'train' / 'ab'[i // 5] / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 24, 3), 20 * i, np.uint8)).save(path)
    paths.append(path)
  return paths


@pytest.fixture
def source(config, files):
  config.data = f'folder:{files[0].parents[2]}'
  return sources.create_source(config, 'train')


def _plain(config):
  """Views that keep an image's grey level."""
  for view in (config.augment.view1, config.augment.view2):
    view.update(jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0,
                solarize_prob=0.0)
  return config


def _spoil(files):
  """One is deleted, one is cut, one is another file altogether."""
  files[3].unlink()
  files[4].write_bytes(files[4].read_bytes()[:50])
  files[9].write_text('no image')


def _create(source, config, total_steps=4, **options):
  return functools.partial(
      pipeline.create_train_dataset, source, config, total_steps=total_steps,
      **options)


def _train(source, config, **options):
  """Batches of a careful pipeline."""
  return list(_create(source, config, **options)(
      careful=True).as_numpy_iterator())


def test_the_next_readable_example_takes_the_place(source, config, files):
  before = _train(source, _plain(config))
  _spoil(files)
  after = _train(source, config)
  assert len(after) == len(before)
  for batch, healthy in zip(after, before, strict=True):
    np.testing.assert_array_equal(batch['wanted'], healthy['index'])
    for row, wanted in enumerate(batch['wanted']):
      used = {3: 5, 4: 5, 9: 0}.get(int(wanted), wanted)
      assert batch['index'][row] == used
      assert batch['label'][row] == used // 5
      for view in batch['views']:
        np.testing.assert_allclose(view[row], 20 * used / 255, atol=1e-5)
      if used == wanted:  # to the bit, its draws are those of the position
        np.testing.assert_array_equal(
            batch['views'][0][row], healthy['views'][0][row])


def test_a_substitute_has_the_draws_of_the_position(source, config, files):
  """What is a function of nothing but the draws stays: the crop's place."""
  gradient = np.tile(np.arange(24, dtype=np.uint8)[None, :, None], (20, 1, 3))
  for path in files:
    Image.fromarray(gradient).save(path)
  before = _train(source, _plain(config))
  files[4].unlink()
  after = _train(source, config)
  for batch, healthy in zip(after, before, strict=True):
    np.testing.assert_array_equal(batch['views'], healthy['views'])


def test_resumed_and_shared_batches_have_the_same_substitutes(
    source, config, files):
  _spoil(files)
  whole = _train(source, config)
  for found, expected in zip(
      _train(source, config, start_step=2), whole[2:], strict=True):
    np.testing.assert_array_equal(found['index'], expected['index'])
    np.testing.assert_array_equal(found['views'], expected['views'])
  parts = [_train(source, config, process_index=i, process_count=5)
           for i in range(5)]
  for step, expected in enumerate(whole):
    for key in ('index', 'wanted', 'label'):
      np.testing.assert_array_equal(
          np.concatenate([part[step][key] for part in parts]), expected[key])


def test_they_are_counted_and_named_once(source, config, files, caplog):
  healthy = _train(source, config)
  _spoil(files)
  watch = unreadable.Watch(source, 0.3)
  batches = list(watch.batches(_create(source, config)))
  assert all('wanted' not in batch for batch in batches)
  # The batch that an unreadable one was met in is made again, none twice.
  assert len(batches) == 4
  for batch, expected in zip(batches, healthy, strict=True):
    readable = ~np.isin(expected['index'], (3, 4, 9))
    for found, view in zip(batch['views'], expected['views'], strict=True):
      np.testing.assert_array_equal(found[readable], view[readable])
  assert watch.count == 3
  assert watch.reasons == {
      3: 'is not there any more', 4: 'cannot be decoded',
      9: 'cannot be decoded'}
  for i in (3, 4, 9):  # two epochs, one line each
    assert caplog.text.count(f'{files[i]} {watch.reasons[i]}') == 1


def test_too_many_end_the_run_with_a_line(source, config, files):
  _spoil(files)
  watch = unreadable.Watch(source, 0.2)
  with pytest.raises(ConfigError, match=(
      r'3 of the 10 examples of folder:.*\.png .*max_bad_image_share=0.2')):
    list(watch.batches(_create(source, config)))


def test_what_others_and_earlier_runs_met_counts_too(
    source, config, files, caplog):
  _spoil(files)
  watch = unreadable.Watch(source, 0.3)
  watch.tell([3, 7])
  assert watch.count == 0
  with pytest.raises(ConfigError, match='4 of the 10 examples'):
    list(watch.batches(_create(source, config)))
  assert '3 of the 10 examples' in caplog.text
  with pytest.raises(ConfigError, match=(
      '4 of the 10 examples of folder:.* cannot be read any more; that is')):
    unreadable.Watch(source, 0.3).tell([1, 2, 3, 4])


def test_a_lost_disk_is_a_clear_line(source, config, files):
  for path in files:
    path.unlink()
  watch = unreadable.Watch(source, 1.0)
  with pytest.raises(ConfigError, match=(
      r'folder:.*9 examples in a row cannot be read; is the disk')):
    list(watch.batches(_create(source, config)))


def test_evaluation_masks_them(source, config, files):
  _spoil(files)
  batches = list(pipeline.create_eval_dataset(
      source, config, batch_size=4, careful=True).as_numpy_iterator())
  found = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
  index = np.array([0, 1, 2, -1, -1, 5, 6, 7, 8, -1, -1, -1])
  np.testing.assert_array_equal(found['index'], index)
  np.testing.assert_array_equal(found['mask'], index >= 0)
  np.testing.assert_array_equal(
      found['label'], np.where(index < 0, -1, index // 5))
  # The padding of the last batch was not asked for.
  np.testing.assert_array_equal(found['wanted'], [*range(_N), -1, -1])
  watch = unreadable.Watch(source, 0.3)
  for batch in batches:
    watch.look(batch)
  assert sorted(watch.reasons) == [3, 4, 9]


def test_substitutes_in_a_subset_are_of_the_subset(source, config, files):
  """Others may be held out, or their labels not to be seen."""
  _spoil(files)
  batches = list(pipeline.create_labelled_dataset(
      source, config, batch_size=4, total_steps=3, seed=0,
      index=np.array([1, 3, 8, 9]), careful=True).as_numpy_iterator())
  wanted = np.concatenate([batch['wanted'] for batch in batches])
  index = np.concatenate([batch['index'] for batch in batches])
  assert sorted(wanted) == sorted([1, 3, 8, 9] * 3)
  np.testing.assert_array_equal(index[wanted == 3], 8)
  np.testing.assert_array_equal(index[wanted == 9], 1)
  for batch in batches:
    np.testing.assert_array_equal(batch['label'], batch['index'] // 5)


def test_labels_of_what_cannot_be_read(config):
  def load(index):
    tf.debugging.assert_none_equal(index, tf.constant(1, tf.int64))
    return {'image': tf.constant(''), 'label': tf.cast(index, tf.int32)}

  source = examples.EncodedSource(
      name='test', num_examples=3, num_classes=3, load=load)
  np.testing.assert_array_equal(examples.read_labels(source), [0, -1, 2])


def test_a_file_that_rotted_before_it_was_held_in_memory(
    source, config, files):
  config.cache_bytes = 10**6
  status = files[4].stat()
  files[4].write_bytes(b'x' * status.st_size)  # and looks the same
  os.utime(files[4], ns=(status.st_atime_ns, status.st_mtime_ns))
  again = sources.create_source(config, 'train')
  assert isinstance(again, examples.EncodedSource)
  watch = unreadable.Watch(again, 0.3)
  list(watch.batches(_create(again, config, total_steps=2)))
  assert list(watch.reasons) == [4]

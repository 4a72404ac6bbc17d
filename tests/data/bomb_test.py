"""Decompression bombs: refused by their headers, in bounded memory.

Each case runs in a process of its own, which says what it found and by how
much its largest memory grew, as Linux knows it.
"""

import json
import os
import pathlib
import struct
import subprocess
import sys
import textwrap
import zlib

import numpy as np
from PIL import Image
import pytest

_SIDE = 20_000  # four hundred million pixels
_MAX_GROWTH = 300 * 2**20  # bytes; one bomb would take 1200 MB

pytestmark = pytest.mark.skipif(
    not pathlib.Path('/proc/self/status').exists(), reason='asks Linux')


def _png_bomb(side: int) -> bytes:
  """A PNG of zeros with three channels."""
  def chunk(kind: bytes, data: bytes) -> bytes:
    return (struct.pack('>I', len(data)) + kind + data
            + struct.pack('>I', zlib.crc32(kind + data)))

  packer = zlib.compressobj(1)
  rows = bytes((3 * side + 1) * 100)
  packed = b''.join(packer.compress(rows) for _ in range(side // 100))
  return (b'\x89PNG\r\n\x1a\n'
          + chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0))
          + chunk(b'IDAT', packed + packer.flush()) + chunk(b'IEND', b''))


def _gif_bomb(path, frames: int) -> None:
  """Many frames of eight million pixels each."""
  first = Image.new('P', (4000, 2000))
  first.save(path)
  contents = path.read_bytes()
  begin = contents.index(b',' + bytes(4) + struct.pack('<HH', 4000, 2000))
  path.write_bytes(
      contents[:begin] + contents[begin:-1] * frames + contents[-1:])


@pytest.fixture(scope='module')
def bombs(tmp_path_factory):
  """A folder of good images and three bombs."""
  root = tmp_path_factory.mktemp('bombs')
  for i in range(8):
    Image.fromarray(np.full((20 + i, 30, 3), 20 * i, np.uint8)).save(
        root / f'good{i}.jpg')
  bomb = _png_bomb(_SIDE)
  (root / 'bomb.png').write_bytes(bomb)
  (root / 'named.jpg').write_bytes(bomb)
  _gif_bomb(root / 'many.gif', frames=500)
  return root


def _run(tmp_path, code: str) -> dict:
  """Runs `code` with `growth()` at hand; its last line is JSON."""
  code = textwrap.dedent('''
      import functools, json, pathlib, re
      import numpy as np
      from byol_jax import config as config_lib
      from byol_jax.quiet_tensorflow import tf
      from byol_jax.data import examples, folder, pipeline, sources, unreadable
      def peak():
        # Not getrusage's, which begins with that of the parent.
        status = pathlib.Path('/proc/self/status').read_text()
        return int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) * 1024
      config = config_lib.get_base_config()
      config.image_size = config.batch_size = 16
      config.cache_bytes, config.max_bad_image_share = 0, 0.5
  ''') + textwrap.dedent(code)
  found = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True,
      env=os.environ | {'XDG_CACHE_HOME': str(tmp_path)})
  return json.loads(found.stdout.splitlines()[-1])


def test_the_examination_of_a_folder_refuses_them(tmp_path, bombs):
  found = _run(tmp_path, f'''
      config.data = 'folder:{bombs}'
      before = peak()
      source = sources.create_source(config, 'train')
      print(json.dumps([source.read_names(), peak() - before]))
  ''')
  names, growth = found
  assert names == [*(f'good{i}.jpg' for i in range(8)), 'many.gif']
  assert growth < _MAX_GROWTH
  (bad,) = tmp_path.glob('byol_jax/bad-*.txt')
  assert bad.read_text().count('implausibly large') == 2


def test_the_pipeline_refuses_them(tmp_path, bombs):
  """As records hold them, which nobody examined before."""
  found = _run(tmp_path, f'''
      paths = tf.constant(sorted(tf.io.gfile.glob('{bombs}/*')))
      def read(paths, total_steps):
        source = examples.EncodedSource(
            name='test', num_examples=len(paths),
            load=lambda index: {{'image': tf.io.read_file(paths[index])}})
        watch = unreadable.Watch(source, 0.5)
        return watch, list(watch.batches(functools.partial(
            pipeline.create_train_dataset, source, config,
            total_steps=total_steps)))
      read(tf.constant(sorted(tf.io.gfile.glob('{bombs}/good*'))), 1)
      before = peak()  # of what any pipeline takes
      watch, batches = read(paths, 2)
      index = np.concatenate([batch['index'] for batch in batches]).tolist()
      print(json.dumps([watch.reasons, sorted(set(index)), peak() - before]))
  ''')
  reasons, index, growth = found
  assert reasons == {
      '0': 'is implausibly large', '10': 'is implausibly large'}
  assert index == list(range(1, 10))  # 9 is the animation, its first frame
  assert growth < _MAX_GROWTH

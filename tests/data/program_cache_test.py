"""Compiled parts of pipelines are kept, and never cost a job anything."""

import atexit
import errno
import importlib.metadata
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import quiet_tensorflow
from byol_jax.data import compiled
from byol_jax.data import program_cache
from byol_jax.quiet_tensorflow import tf

# Two programs; before the second, what is in memory is spoilt.
_JOB = """
import pathlib, sys
import jax.numpy as jnp
from byol_jax import quiet_tensorflow
from byol_jax.data import compiled
from byol_jax.data import program_cache
from byol_jax.quiet_tensorflow import tf

program_cache.use(pathlib.Path(sys.argv[1]))
fn = compiled.for_host(lambda x: jnp.sin(x) @ jnp.cos(x))
print(fn(tf.range(5.0)).numpy())
program_cache.save()
for name in tf.io.gfile.listdir(quiet_tensorflow.PROGRAMS):
  with tf.io.gfile.GFile(f'{quiet_tensorflow.PROGRAMS}/{name}', 'w') as file:
    file.write('spoilt')
try:
  print(fn(tf.range(6.0)).numpy())
except tf.errors.OpError:
  print('taken')
"""


@pytest.fixture(autouse=True)
def _used_by_nobody_else(monkeypatch):
  monkeypatch.setattr(program_cache, '_folder', None)
  yield
  atexit.unregister(program_cache.save)


def _entries(tmp_path):
  return sorted(tmp_path.rglob('*-cache'))


def _keep(folder, name, program, age=0):
  """As a job of `age` seconds ago has left it."""
  entry = folder / f'tensorflow-{tf.__version__}' / f'{name}-cache'
  entry.parent.mkdir(exist_ok=True)
  entry.write_bytes(program_cache._sealed(program))
  now = entry.stat().st_mtime
  os.utime(entry, (now, now - age))
  return entry


def _in_memory(name):
  path = f'{quiet_tensorflow.PROGRAMS}/{name}'
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path, 'rb') as file:
    return file.read()


def test_this_tensorflow_is_one_of_those():
  """When it goes red: does the new one know the flag? Add it, then."""
  assert importlib.metadata.version('tensorflow').startswith(
      quiet_tensorflow.TENSORFLOWS)


def test_the_second_start_takes_what_the_first_has_made(tmp_path):
  def run():
    done = subprocess.run(
        [sys.executable, '-c', _JOB, str(tmp_path)], text=True, timeout=120,
        capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()

  first = run()
  # What was kept before it was spoilt, and at the end.
  assert len(_entries(tmp_path)) == 3
  assert run() == [first[0], 'taken']
  x = np.arange(6, dtype=np.float32)
  assert float(first[1]) == pytest.approx(np.sin(x) @ np.cos(x), rel=1e-5)


def test_what_is_compiled_is_kept_whole(tmp_path):
  program_cache.use(tmp_path)
  fn = compiled.for_host(lambda x: jnp.tanh(x) + 3.0)
  tf.data.Dataset.from_tensors(tf.zeros(7)).map(fn).get_single_element()
  program_cache.save()
  assert _entries(tmp_path)
  for entry in _entries(tmp_path):
    assert entry.read_bytes() == program_cache._sealed(
        _in_memory(entry.name.removesuffix('-cache')))


def test_pieces_are_removed(tmp_path):
  """As a full disk, or a kill, leaves them."""
  whole = _keep(tmp_path, 'whole.pb', b'abc')
  for name, length in (('cut.pb', 34), ('short.pb', 5), ('empty.pb', 0)):
    piece = _keep(tmp_path, name, b'abc')
    piece.write_bytes(piece.read_bytes()[:length])
  program_cache.use(tmp_path)
  assert _entries(tmp_path) == [whole]
  assert _in_memory('whole.pb') == b'abc'
  assert _in_memory('cut.pb') is None


def test_the_oldest_go_first(tmp_path, monkeypatch):
  monkeypatch.setattr(program_cache, '_MAX_BYTES', 100)
  for age in range(4):
    _keep(tmp_path, f'{age}.pb', b'12345678', 1000 * age)
  program_cache.use(tmp_path)
  assert [e.name for e in _entries(tmp_path)] == ['0.pb-cache', '1.pb-cache']
  assert _in_memory('1.pb') == b'12345678'
  assert _in_memory('2.pb') is None


def test_what_cannot_be_read_is_left(tmp_path):
  """Whoever put it there."""
  whole = _keep(tmp_path, 'whole2.pb', b'abc')
  (whole.parent / 'folder.pb-cache').mkdir()
  (whole.parent / 'loop.pb-cache').symlink_to('loop.pb-cache')
  program_cache.use(tmp_path)
  assert _in_memory('whole2.pb') == b'abc'
  assert len(_entries(tmp_path)) == 3


@pytest.mark.parametrize('error', [
    errno.EACCES, errno.ENOSPC, errno.ESTALE, errno.EROFS])
def test_what_cannot_be_written_is_no_loss(error, tmp_path, monkeypatch):
  program_cache.use(tmp_path)
  compiled.for_host(lambda x: x * 2.0)(tf.zeros(3))

  def fail(*_, **__):
    raise OSError(error, os.strerror(error))

  for place, name in ((os, 'fdopen'), (os, 'replace'), (pathlib.Path, 'stat')):
    with monkeypatch.context() as patch:
      patch.setattr(place, name, fail)
      program_cache.save()
  assert not _entries(tmp_path)
  program_cache.save()
  assert _entries(tmp_path)


def test_no_folder_is_no_loss(tmp_path):
  (tmp_path / 'file').touch()
  program_cache.use(tmp_path / 'file')
  program_cache.save()


def test_a_half_written_program_is_not_kept(tmp_path):
  program_cache.use(tmp_path)
  with tf.io.gfile.GFile(f'{quiet_tensorflow.PROGRAMS}/a.pb1.tmp', 'w') as file:
    file.write('half')
  program_cache.save()
  assert not [e for e in _entries(tmp_path) if 'tmp' in e.name]


@pytest.mark.parametrize('flags, expected', [
    (None, '{flag}={memory}'),
    (' --tf_xla_a=1', '--tf_xla_a=1 {flag}={memory}'),
    ('{flag}=/mine', '{flag}=/mine'),
    ('{flag}=', '{flag}='),
    ('/a/file/of/flags', '/a/file/of/flags')])
def test_the_users_flags_stay(flags, expected, monkeypatch):
  names = {'flag': quiet_tensorflow._PROGRAMS_FLAG,
           'memory': quiet_tensorflow.PROGRAMS}
  monkeypatch.delenv('TF_XLA_FLAGS', raising=False)
  if flags is not None:
    flags = flags.format(**names)
    monkeypatch.setenv('TF_XLA_FLAGS', flags)
  with quiet_tensorflow._programs_in_memory():
    assert os.environ['TF_XLA_FLAGS'] == expected.format(**names)
  assert os.environ.get('TF_XLA_FLAGS') == flags


@pytest.mark.parametrize('version', ['2.19.1', '3.0.0', None])
def test_a_tensorflow_that_may_not_know_the_flag(version, monkeypatch):
  """It would end the process."""
  monkeypatch.delenv('TF_XLA_FLAGS', raising=False)
  monkeypatch.setattr(importlib.metadata, 'version', lambda _: version)
  with quiet_tensorflow._programs_in_memory():
    assert 'TF_XLA_FLAGS' not in os.environ


def test_nothing_is_kept_unasked(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  compiled.for_host(lambda x: x * 3.0)(tf.zeros(3))
  program_cache.save()
  assert not list(tmp_path.iterdir())

"""What a job compiles is kept for the next one, and never costs it anything."""

import os
import subprocess
import sys

import pytest

# A job that compiles two programs, and says what JAX did for its own.
_JOB = """
import sys
from byol_jax import compilation_cache
from byol_jax import jobs

def main(_):
  compilation_cache.use()
  import jax
  import jax.numpy as jnp
  from byol_jax.data import compiled
  from byol_jax.quiet_tensorflow import tf
  compiled.for_host(lambda x: x * 2.0)(tf.zeros(3))
  events = []
  jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
  print('result', float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.arange(5.0))))
  print('hits', events.count('/jax/compilation_cache/cache_hits'))
  print('writes', events.count('/jax/compilation_cache/cache_misses'))

jobs.run(main)
"""


def _run(tmp_path, *argv, **env):
  """Returns what was said of the result, of hits and of writes, and stderr."""
  kept = {k: v for k, v in os.environ.items() if not k.startswith(
      ('JAX_COMPILATION', 'JAX_PERSISTENT'))}
  done = subprocess.run(
      [sys.executable, '-c', _JOB, *argv], capture_output=True, text=True,
      timeout=120, check=False,
      env=kept | {'XDG_CACHE_HOME': str(tmp_path / 'cache')} | env)
  assert done.returncode == 0, done.stderr
  return dict(line.split() for line in done.stdout.splitlines()), done.stderr


def _entries(folder):
  return sorted(folder.rglob('*-cache'))


def _of_pipelines(folder):
  return sorted(folder.rglob('tensorflow-*/*-cache'))


def test_the_second_start_compiles_nothing(tmp_path):
  first, _ = _run(tmp_path)
  second, errors = _run(tmp_path)
  assert first['hits'] == '0' and int(first['writes']) > 0
  assert second == {
      'result': first['result'], 'hits': first['writes'], 'writes': '0'}
  assert not errors
  kept = tmp_path / 'cache' / 'byol_jax' / 'compiled'
  assert len(_entries(kept)) > len(_of_pipelines(kept)) > 0


def test_where_the_user_says(tmp_path):
  _run(tmp_path, f'--compilation_cache={tmp_path}/here')
  assert _of_pipelines(tmp_path / 'here')
  _run(tmp_path, JAX_COMPILATION_CACHE_DIR=f'{tmp_path}/there',
       JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0')
  assert _entries(tmp_path / 'there')
  assert not (tmp_path / 'cache').exists()


def test_switched_off(tmp_path):
  said, _ = _run(
      tmp_path, '--compilation_cache=',
      JAX_COMPILATION_CACHE_DIR=f'{tmp_path}/there')
  assert said['writes'] == '0'
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('place', ['file/inside', 'file'])
def test_a_place_that_cannot_be_written_costs_one_line(place, tmp_path):
  (tmp_path / 'file').touch()
  said, errors = _run(tmp_path, f'--compilation_cache={tmp_path}/{place}')
  assert said['writes'] == '0'
  (line,) = errors.splitlines()
  assert f'{tmp_path}/{place} cannot be written' in line


def test_entries_that_are_not_whole_are_made_anew(tmp_path):
  """As a full disk, or a kill, leaves them."""
  first, _ = _run(tmp_path)
  for entry in _entries(tmp_path):
    entry.write_bytes(entry.read_bytes()[:100])
  second, errors = _run(tmp_path)
  assert second == first
  assert not errors
  assert all(len(e.read_bytes()) > 100 for e in _entries(tmp_path))
  third, _ = _run(tmp_path)
  assert third['hits'] == first['writes']


def test_the_oldest_entries_go_first(tmp_path, monkeypatch):
  from byol_jax import compilation_cache
  monkeypatch.setattr(compilation_cache, '_MAX_BYTES', 25)
  folder = tmp_path / 'processor'
  folder.mkdir()
  (folder / 'checked').touch()
  (folder / 'tensorflow-1').mkdir()
  for age, name in enumerate(('0', 'tensorflow-1/1', '2', 'tensorflow-1/3')):
    entry = folder / f'{name}-cache'
    entry.write_bytes(bytes(10))
    os.utime(entry, (1000 - age,) * 2)
  compilation_cache._tidy(tmp_path, folder)
  assert [entry.name for entry in _entries(tmp_path)] == ['0-cache', '1-cache']

"""A compiler that dies takes nothing with it."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from byol_jax import config as config_lib
from byol_jax.planning import isolation
from byol_jax.planning import slices
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
(WHERE,) = slices.parse_slices(['v4:2x2x1'])


def _die(*_):
  os.kill(os.getpid(), signal.SIGKILL)


def _die_as_libtpu_does(*_):
  print(
      'https://symbolize/r/?trace=7f98\n*** SIGSEGV STACK OVERFLOW (see '
      'go/cppstackoverflow) received by PID 7 (TID 8) on cpu 0; stack trace: '
      '***\n    @     0x7f9861bfda0d  (unknown)', file=sys.stderr, flush=True)
  os.kill(os.getpid(), signal.SIGSEGV)


def _refuse(*_):
  raise config_lib.ConfigError('libtpu does not know it')


@pytest.mark.parametrize('compiler, words', [
    (_die, '(it said nothing; out of memory?)'),
    (_die_as_libtpu_does, '(SIGSEGV STACK OVERFLOW)')])
def test_a_death_is_one_line(monkeypatch, tiny_config, compiler, words, capfd):
  monkeypatch.setattr(isolation, '_compile', compiler)
  with pytest.raises(isolation.CompilerDied) as raised:
    isolation.compile_apart(tiny_config, 10, (0, 1), WHERE)
  assert str(raised.value) == (
      'the compiler died while it compiled the step for v4:2x2x1, 4 images of '
      f'a device {words}')
  assert capfd.readouterr().err == ''


def test_an_error_comes_through(monkeypatch, tiny_config):
  monkeypatch.setattr(isolation, '_compile', _refuse)
  with pytest.raises(config_lib.ConfigError, match='does not know it'):
    isolation.compile_apart(tiny_config, 10, (0, 1), WHERE)


_PARENT = """
import concurrent.futures, multiprocessing, os, time
from byol_jax.planning import isolation
if __name__ == '__main__':
  with concurrent.futures.ProcessPoolExecutor(
      1, mp_context=multiprocessing.get_context('spawn'),
      initializer=isolation._set_up, initargs=(os.devnull,)) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 1000).result()
"""


def test_a_compiler_does_not_outlive_who_asked_for_it(tmp_path):
  """It would take gigabytes for nothing."""
  script = tmp_path / 'parent.py'
  script.write_text(_PARENT)
  with subprocess.Popen(
      [sys.executable, str(script)], stdout=subprocess.PIPE, text=True,
      env=os.environ | {'PYTHONPATH': str(ROOT)}) as parent:
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.kill()
  until = time.monotonic() + 60
  while not processes.has_ended(child):
    assert time.monotonic() < until
    time.sleep(0.05)

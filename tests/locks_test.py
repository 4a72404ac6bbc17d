"""A folder is one job's at a time."""

import contextlib
import subprocess
import sys

import pytest

from byol_jax import config as config_lib
from byol_jax import locks


def test_the_second_is_told_who_has_it(tmp_path):
  path = tmp_path / '.lock'
  with locks.hold(path, 'the workdir'):
    with pytest.raises(
        config_lib.ConfigError,
        match=r'another job works on the workdir \(.+, pid \d+, since '):
      with locks.hold(path, 'the workdir'):
        pytest.fail('two at once')
  with locks.hold(path, 'the workdir'):
    pass


def test_a_killed_process_holds_nothing(tmp_path):
  path = tmp_path / '.lock'
  child = subprocess.Popen(
      [sys.executable, '-c',
       'import sys, time\nfrom byol_jax import locks\n'
       f'with locks.hold({str(path)!r}, "it"):\n'
       '  print("held", flush=True)\n  time.sleep(60)'],
      stdout=subprocess.PIPE, text=True)
  assert child.stdout.readline() == 'held\n'
  with pytest.raises(config_lib.ConfigError, match=f'pid {child.pid}'):
    with locks.hold(path, 'it'):
      pass
  child.kill()
  child.wait()
  with locks.hold(path, 'it'):
    pass


def test_the_lock_of_a_host_that_is_gone_is_waited_for(
    tmp_path, monkeypatch):
  path = tmp_path / '.lock'
  waited = []
  with contextlib.ExitStack() as stack:
    first = stack.enter_context(contextlib.ExitStack())
    first.enter_context(locks.hold(path, 'it'))
    path.write_text('another host, pid 3, since then')

    def sleep(secs):
      waited.append(secs)
      first.close()

    monkeypatch.setattr(locks.time, 'sleep', sleep)
    stack.enter_context(locks.hold(path, 'it'))
    assert len(waited) == 1

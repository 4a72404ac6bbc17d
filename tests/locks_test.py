"""A folder is one job's at a time."""

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


def test_where_there_are_no_locks_a_line_says_so(caplog):
  with locks.hold('gs://bucket/run/.lock', '--workdir=gs://bucket/run'):
    pass
  assert 'start no second job on it' in caplog.text

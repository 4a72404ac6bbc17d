"""A folder is one job's at a time, also where nothing can be locked."""

import json
import subprocess
import sys
import threading
import time

from etils import epath
import pytest

from byol_jax import config as config_lib
from byol_jax import lease


@pytest.fixture
def path(tmp_path, monkeypatch):
  monkeypatch.setattr(lease, '_PERIOD_SECS', 0.05)
  monkeypatch.setattr(lease, '_SILENCE_SECS', 0.5)
  return epath.Path(tmp_path / '.lock')


@pytest.fixture(autouse=True)
def left(monkeypatch):
  """Why this process would have left, each time."""
  reasons = []
  monkeypatch.setattr(lease, '_leave', reasons.append)
  return reasons


def test_the_second_is_told_who_has_it_and_the_first_keeps_it(
    path, left, monkeypatch):
  def watch(_):
    """However long the first takes to come to renew it."""
    found, until = path.read_text(), time.monotonic() + 60
    while path.read_text() == found and time.monotonic() < until:
      threading.Event().wait(0.01)
  monkeypatch.setattr(lease.time, 'sleep', watch)
  with lease.hold(path, 'the workdir', 'a host, pid 7'):
    with pytest.raises(
        config_lib.ConfigError,
        match=r'another job works on the workdir \(a host, pid 7\)'):
      with lease.hold(path, 'the workdir', 'b'):
        pytest.fail('two at once')
    assert json.loads(path.read_text())['owner'] == 'a host, pid 7'
  assert not path.exists() and not left


def test_a_dead_owner_is_replaced(path):
  path.write_text('{"owner": "a", "token": "x", "beat": 3}')
  with lease.hold(path, 'it', 'b'):
    assert json.loads(path.read_text())['owner'] == 'b'


def test_who_lost_it_leaves_though_nobody_can_hear_why(tmp_path):
  code = (
      'import sys, time\n'
      'from etils import epath\n'
      'from byol_jax import lease\n'
      'lease._PERIOD_SECS = 0.05\n'
      'path = epath.Path(sys.argv[1])\n'
      'with lease.hold(path, "it", "a"):\n'
      '  while True:\n'  # it may be renewed just now
      """    path.write_text('{"owner": "b", "token": "x", "beat": 3}')\n"""
      '    time.sleep(0.2)\n')
  with open('/dev/full', 'wb') as full:
    done = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / '.lock')], stdout=full,
        stderr=full, timeout=60, check=False)
  assert done.returncode == 1


def test_who_lost_it_leaves(path, left):
  with lease.hold(path, 'it', 'a'):
    until = time.monotonic() + 60
    while not left and time.monotonic() < until:
      path.write_text('{"owner": "b", "token": "x", "beat": 3}')
      time.sleep(0.2)
  assert left == ['b has taken it over']
  assert json.loads(path.read_text())['owner'] == 'b'

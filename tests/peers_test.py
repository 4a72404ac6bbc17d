"""Who is to blame, by what the processes said of themselves."""

import json
import re
import textwrap
import threading
import time

import pytest

from byol_jax import peers
from tests import processes


def _peer(heard=0.0, moved=0.0, progress=5, code=None, why=''):
  said = {'progress': progress, 'doing': f'step {progress}', 'code': code,
          'why': why}
  return peers.Peer('a host, pid 7', said, heard, moved)


def _verdict(*others, me=None, now=100.0):
  known = dict(enumerate((me or _peer(heard=now, moved=now), *others)))
  return peers.verdict(known, 0, now=now, timeout_secs=10, hang_secs=50)


def test_all_well():
  assert _verdict(_peer(heard=95, moved=95), _peer(heard=91, moved=60)) is None
  assert peers.verdict({}, 0, now=0, timeout_secs=10, hang_secs=50) is None


def test_one_that_is_not_heard_of():
  code, why = _verdict(_peer(heard=99, moved=99), _peer(heard=89, moved=89))
  assert code == 75
  assert why == (
      'process 2 (a host, pid 7) has not been heard of for 11 s, after step 5')


def test_one_that_the_others_wait_for():
  waiting = _peer(heard=99, moved=45, progress=6)
  hanging = _peer(heard=99, moved=40, progress=5)
  code, why = _verdict(hanging, me=waiting)
  assert code == 75
  assert why.startswith(
      'process 1 (a host, pid 7) hangs: it has not moved for 60 s, in step 5')
  # The one that hangs knows too.
  code, why = _verdict(waiting, me=hanging)
  assert why.startswith('process 0 (a host, pid 7) hangs')


def test_nobody_hangs_where_nobody_is_further():
  """A long compile, or a long wait for the same disk."""
  slow = _peer(heard=99, moved=1)
  assert _verdict(slow, me=slow) is None


def test_one_that_left_with_an_error():
  code, why = _verdict(_peer(code=1, why='no such file'))
  assert (code, why) == (1, 'process 1 (a host, pid 7) left: no such file')
  code, _ = _verdict(_peer(code=75, why='SIGTERM'))
  assert code == 75


def test_one_that_is_done_is_neither_gone_nor_waited_for():
  done = _peer(heard=1, moved=1, progress=9, code=0)
  assert _verdict(done, me=_peer(heard=100, moved=1)) is None


class _Service:
  """What the coordination service does, in a dictionary."""

  def __init__(self):
    self.entries = {}

  def key_value_set(self, key, value, allow_overwrite):
    assert allow_overwrite
    self.entries[key] = value

  def key_value_dir_get(self, prefix):
    return [e for e in self.entries.items() if e[0].startswith(prefix)]


@pytest.fixture
def watches(monkeypatch):
  """Of two processes, which speak when they are told to."""
  monkeypatch.setattr(peers.threading.Thread, 'start', lambda _: None)
  service = _Service()
  return [peers.Watch(service, i, timeout_secs=10, hang_secs=50)
          for i in range(2)]


def test_processes_hear_of_each_other(watches):
  a, b = watches
  a._exchange()
  b.advance('step 1')
  b._exchange()
  a._exchange()
  assert a._peers[1].said['doing'] == 'step 1'
  moved = a._peers[1].moved
  b._exchange()
  a._exchange()
  assert a._peers[1].moved == moved < a._peers[1].heard
  b.leave(1, 'no such file')
  a._exchange()
  assert a._peers[1].said['why'] == 'no such file'


def test_the_threads_end_with_the_job(monkeypatch):
  """One that is in C++ as Python ends would abort a process that is done."""
  monkeypatch.setattr(peers, '_PERIOD_SECS', 0.01)
  watch = peers.Watch(_Service(), 0, timeout_secs=10, hang_secs=50)
  assert all(thread.is_alive() for thread in watch._threads)
  watch.leave(0, '')
  watch.close()
  assert not any(thread.is_alive() for thread in watch._threads)


def test_what_is_said_last_is_the_last_to_arrive():
  """Though what was said before is slow."""
  service, slow = _Service(), threading.Event()
  arrive = service.key_value_set

  def set_slowly(key, value, allow_overwrite):
    if '"code": null' in value:
      slow.set()
      time.sleep(0.3)
    arrive(key, value, allow_overwrite)

  service.key_value_set = set_slowly
  watch = peers.Watch(service, 0, timeout_secs=10, hang_secs=50)
  assert slow.wait(10)
  watch.leave(0, '')
  watch.close()
  (said,) = service.entries.values()
  assert json.loads(said)['code'] == 0


def test_a_failed_collective_leaves_the_last_words_to_the_watch(monkeypatch):
  """Who is gone is found late, on a busy machine; no traceback follows."""
  monkeypatch.setattr(peers, '_PERIOD_SECS', 0.01)
  monkeypatch.setattr(peers, '_LAST_WORDS_SECS', 0.5)
  ended = threading.Event()

  def end(code):
    assert code == 75
    ended.set()

  monkeypatch.setattr(peers.os, '_exit', end)
  watch = peers.Watch(_Service(), 0, timeout_secs=0.1, hang_secs=50)
  watch._peers[1] = _peer(heard=time.monotonic() - 1)
  assert watch._goes.wait(10)
  suspicious = threading.Thread(target=watch.suspect, daemon=True)
  suspicious.start()
  assert ended.wait(10)
  assert suspicious.is_alive()
  watch.leave(0, '')
  watch.close()


def _in_the_watch_of(monkeypatch, watch):
  monkeypatch.setattr(peers, '_watch', watch)


def test_who_has_not_come_to_where_another_waits_is_behind(
    watches, monkeypatch):
  """As in a save, between two steps: only one is at the disk."""
  for watch in reversed(watches):
    _in_the_watch_of(monkeypatch, watch)
    peers.advance('step 7')
    with peers.at('the save of step 7'):
      if watch is watches[1]:
        peers.wait()
      watch._exchange()
  code, why = peers.verdict(
      watches[0]._peers, 1, now=peers.time.monotonic() + 60, timeout_secs=100,
      hang_secs=50)
  assert code == 75
  assert why.startswith('process 0 (')
  assert 'it has not moved for 60 s, in the save of step 7, and' in why
  assert watches[0]._said['doing'] == 'step 7'


def test_who_says_something_new_does_not_hang(watches, monkeypatch):
  """Though the others are further: it examines files, which they know."""
  a, b = watches
  _in_the_watch_of(monkeypatch, b)
  b._exchange()
  a._exchange()
  moved = a._peers[1].moved
  peers.advance('checking image file 7', 0)
  b._exchange()
  a._exchange()
  assert a._peers[1].moved > moved


# Process 0 does not come to where process 1 waits for it.
CODE = '''
    import sys, time
    from absl import flags
    import jax
    from byol_jax import peers
    from byol_jax import processes
    from byol_jax.training import devices
    from orbax.checkpoint import multihost

    flags.FLAGS(sys.argv)
    processes.join()
    devices.any_process(False)  # compiles
    peers.advance('step 7')
    devices.any_process(False)
    with peers.at('the save of step 7'):
      if not jax.process_index():
        time.sleep(1000)
      {wait}
'''


@pytest.mark.parametrize('wait', [
    'devices.any_process(True)', 'multihost.sync_global_processes("a save")'])
def test_a_process_that_hangs_between_two_steps_is_named(wait, tmp_path):
  code = textwrap.dedent(CODE).format(wait=wait)
  done = processes.run(
      ['-c', code, '--hang_timeout_secs=3'], tmp_path, timeout=100)
  for process in done:
    assert process.code == 75, done
    # By its own judgement, or as it heard it from the one that left first.
    assert re.search(
        r'^error: .*process 0 \([^)]+\) hangs: it has not moved for \d+ s, in '
        'the save of step 7, and the others wait', process.err, re.M), done

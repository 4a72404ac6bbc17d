"""What a job says may be lost; the job is not."""

import os
import shlex
import subprocess
import sys

import pytest

from byol_jax import terminal

TALK = '''
import sys
from byol_jax import terminal
terminal.keep_on()
for _ in range(3):
  print('a line', flush=True)
  print('an error', file=sys.stderr, flush=True)
print('at the end, when Python writes what is left')
sys.exit(75)
'''


def _talk(unbuffered='', **streams):
  return subprocess.run(
      [sys.executable, '-c', TALK], text=True, timeout=60, check=False,
      env=os.environ | {'PYTHONUNBUFFERED': unbuffered}, **streams)


@pytest.fixture
def full():
  with open('/dev/full', 'wb') as file:
    yield file


@pytest.fixture
def unread():
  """The end of a pipe that nobody reads."""
  reader, writer = os.pipe()
  os.close(reader)
  yield writer
  os.close(writer)


def test_what_can_be_written_is_written():
  done = _talk(capture_output=True)
  assert done.returncode == 75
  assert done.stdout.splitlines()[:3] == ['a line'] * 3
  assert done.stderr.splitlines() == ['an error'] * 3


@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_a_full_disk_is_told_once_where_there_is_room(full, unbuffered):
  done = _talk(unbuffered, stdout=full, stderr=subprocess.PIPE)
  assert done.returncode == 75
  said, *rest = done.stderr.splitlines()
  assert said.startswith('standard output cannot be written: ')
  assert 'No space left on device' in said
  assert rest == ['an error'] * 3
  done = _talk(unbuffered, stdout=subprocess.PIPE, stderr=full)
  assert done.returncode == 75
  assert done.stdout.count('a line') == 3
  assert done.stdout.count('standard error cannot be written: ') == 1


@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_both_may_be_lost(full, unread, unbuffered):
  for stream in (full, unread):
    done = _talk(unbuffered, stdout=stream, stderr=stream)
    assert done.returncode == 75


def test_who_does_not_read_is_not_missed(unread):
  done = _talk(stdout=unread, stderr=subprocess.PIPE)
  assert (done.returncode, done.stderr.splitlines()) == (75, ['an error'] * 3)


def test_a_stream_that_recovers_is_told_of_again(capfd, monkeypatch):
  class Disk:
    full = False

    def write(self, _):
      if self.full:
        raise OSError(28, 'No space left on device')

    def flush(self):
      self.write('')

  disk = Disk()
  monkeypatch.setattr(sys, 'stdout', disk)
  monkeypatch.setattr(sys, 'stderr', sys.stderr)
  terminal.keep_on()
  terminal.keep_on()  # which changes nothing
  for disk.full in (False, True, True, False, True):
    print('a line', flush=True)
  said = capfd.readouterr().err
  assert said.count('standard output cannot be written') == 2


LEAVE = '''
import threading
import time
from byol_jax import terminal
terminal.keep_on()
if {stuck}:
  # A thread that waits for whoever should read, and has the stream's lock.
  threading.Thread(target=print, args=('x' * 10**6,), daemon=True).start()
  time.sleep(0.5)
terminal.leave(3, 'last words')
'''


def _leave(stuck=False, **streams):
  return subprocess.run(
      [sys.executable, '-c', LEAVE.format(stuck=stuck)], timeout=20,
      check=False, text=True, **streams)


def test_last_words_are_heard():
  done = _leave(stderr=subprocess.PIPE)
  assert (done.returncode, done.stderr) == (3, 'last words')


def test_nor_do_last_words_keep_anybody(unread, full):
  for stream in (unread, full):
    assert _leave(stdout=stream, stderr=stream).returncode == 3
  reader, writer = os.pipe()  # which is there, and does not read
  try:
    assert _leave(stuck=True, stdout=writer, stderr=writer).returncode == 3
    done = _leave(stuck=True, stdout=writer, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (3, 'last words')
  finally:
    os.close(reader)
    os.close(writer)


def test_closed_streams_are_none():
  command = ' '.join(['exec', shlex.quote(sys.executable), '-c',
                      shlex.quote(TALK), '>&-', '2>&-'])
  assert subprocess.run(
      ['bash', '-c', command], timeout=20, check=False).returncode == 75

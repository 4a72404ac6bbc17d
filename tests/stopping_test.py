"""Signals: the first asks, the second leaves, also where Python hangs."""

import ctypes
import gc
import importlib.machinery
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from byol_jax import stopping


def _send(number):
  os.kill(os.getpid(), number)
  time.sleep(0)  # the handler runs between two lines of Python


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks(number):
  before = signal.getsignal(number)
  with stopping.requests() as asked:
    assert not asked.requested
    _send(number)
    assert asked.requested
  assert signal.getsignal(number) is before


def test_with_nothing_to_save_it_raises_at_once():
  with pytest.raises(stopping.Preempted, match='SIGTERM') as error:
    with stopping.requests(at_once=True):
      _send(signal.SIGTERM)
      pytest.fail('went on')
  assert error.value.code == 75
  assert signal.set_wakeup_fd(-1) == -1


def test_what_c_code_puts_in_its_place_is_not_an_error():
  """pybind11 raises a RuntimeError where Python that it called has raised."""
  with pytest.raises(stopping.Preempted, match='SIGTERM: there was nothing'):
    with stopping.requests(at_once=True):
      try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
      except stopping.Preempted:
        raise RuntimeError('MISMATCH of active exception types') from None


@pytest.fixture
def said(monkeypatch):
  """What Python says of exceptions that nobody could raise."""
  said = []
  monkeypatch.setattr(
      sys, 'unraisablehook', lambda found: said.append(found.exc_value))
  return said


def _raise_in_a_callback(function):
  """As Python collects garbage, where it only says what was raised."""
  def callback(phase, _):
    gc.callbacks.remove(callback)
    function()
  gc.callbacks.append(callback)
  gc.collect()


@pytest.mark.parametrize('waits', [True, False])
def test_where_nobody_can_raise_it_is_raised_afterwards(waits, said):
  hook, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
  with pytest.raises(stopping.PreemptedAtOnce, match='SIGTERM'):
    with stopping.requests(at_once=True) as asked:
      _raise_in_a_callback(lambda: {}['of others'])
      _raise_in_a_callback(lambda: _send(signal.SIGTERM))
      assert asked.ending is not None
      if waits:
        time.sleep(10)
        pytest.fail('went on')
  assert list(map(str, said)) == ["'of others'"]
  assert sys.unraisablehook is hook
  assert signal.getsignal(signal.SIGALRM) is alarm
  assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


_RAISE_ANOTHER = b"""
import os, signal, time
try:
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(10)
except SystemExit as error:
  raise SystemError('returned a result with an exception set') from error
"""


@pytest.mark.parametrize('waits', [True, False])
def test_what_c_code_says_instead_is_raised_afterwards(waits, monkeypatch):
  """It says so by Python's hook, and goes on."""
  said = []
  monkeypatch.setattr(sys, 'excepthook', lambda *found: said.append(found[1]))
  hook, run = sys.excepthook, ctypes.pythonapi.PyRun_SimpleString
  with pytest.raises(stopping.PreemptedAtOnce, match='SIGTERM'):
    with stopping.requests(at_once=True) as asked:
      assert run(b'{}["of others"]') and run(_RAISE_ANOTHER)
      assert asked.ending is not None
      if waits:
        time.sleep(10)
        pytest.fail('went on')
  assert list(map(str, said)) == ["'of others'"]
  assert sys.excepthook is hook


def test_errors_of_others_in_a_clean_up_are_shown_and_do_not_end_it(said):
  done = []
  with pytest.raises(stopping.PreemptedAtOnce, match='SIGTERM'):
    with stopping.requests(at_once=True):
      try:
        _send(signal.SIGTERM)
      finally:
        _raise_in_a_callback(lambda: {}['of others'])
        time.sleep(0.1)  # an alarm would come
        done.append('cleaned up')
  assert done and list(map(str, said)) == ["'of others'"]


def test_who_listens_by_then_does_not_keep_it_from_being_raised(said):
  with pytest.raises(stopping.PreemptedAtOnce, match='SIGTERM'):
    with stopping.requests(at_once=True):
      _raise_in_a_callback(lambda: _send(signal.SIGTERM))
      with stopping.requests(at_once=True):
        time.sleep(10)
        pytest.fail('went on')
  assert not said


def test_an_alarm_of_others_is_left_to_them():
  came = []
  before = signal.signal(signal.SIGALRM, lambda *_: came.append('alarm'))
  try:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with stopping.requests(at_once=True):
      until = time.monotonic() + 60
      while not came and time.monotonic() < until:
        time.sleep(0.01)
  finally:
    signal.signal(signal.SIGALRM, before)
  assert came == ['alarm']


@pytest.mark.parametrize('method', ['create_module', 'exec_module'])
def test_modules_of_c_are_made_first(method):
  """JAX's and TensorFlow's crash where one raises in the midst of them."""
  made = []

  def make(self, _):
    _send(signal.SIGTERM)
    time.sleep(0.1)
    made.append(self.name)

  make.__code__ = make.__code__.replace(co_name=method)
  loader = type('Loader', (importlib.machinery.ExtensionFileLoader,), {
      method: make})('a', 'a.so')
  with pytest.raises(stopping.Preempted, match='SIGTERM'):
    with stopping.requests(at_once=True):
      getattr(loader, method)(None)
      time.sleep(10)
      pytest.fail('went on')
  assert made == ['a']


def test_an_error_of_whom_nobody_asked_stays_one():
  with pytest.raises(RuntimeError, match='its own'):
    with stopping.requests(at_once=True):
      raise RuntimeError('its own')


def test_nothing_is_left_behind_that_leaves_later(monkeypatch):
  left = []
  monkeypatch.setattr(stopping.terminal.os, '_exit', left.append)
  with pytest.raises(stopping.Preempted):
    with stopping.requests(at_once=True) as asked:
      _send(signal.SIGTERM)
  asked._leave.join(60)
  assert not asked._leave.is_alive() and not left


def test_who_has_something_to_save_by_then_is_not_cut_off(monkeypatch):
  left = []
  monkeypatch.setattr(
      stopping.terminal, 'leave', lambda *_, **__: left.append('left'))
  asked = stopping.Requests(at_once=True)
  asked.at_once = False  # the first step is done
  asked._go(signal.SIGTERM)
  assert not left
  asked.at_once = True
  asked._go(signal.SIGTERM)
  assert left


def test_outside_the_main_thread_nothing_is_asked():
  seen = []

  def run():
    with stopping.requests() as asked:
      seen.append(asked.requested)

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert seen == [False]


# A C function that holds the main thread, and goes on waiting after a signal
# without a moment of Python in between, as a wait for a collective does. The
# C library writes a 2 into a mutex that somebody waits for: only then the
# thread says so, for before the main thread would still see a signal.
CODE = '''
import ctypes
import threading
import time
from byol_jax import stopping
lock = ctypes.CDLL(None).pthread_mutex_lock
mutex = ctypes.create_string_buffer(64)

def tell():
  while mutex.raw[0] != 2:
    time.sleep(0.01)
  print('ready', flush=True)

def on_byte(self, number):
  heard(self, number)
  print('heard', flush=True)

heard, stopping.Requests.on_byte = stopping.Requests.on_byte, on_byte
with stopping.requests(at_once={at_once}):
  threading.Thread(target=tell, daemon=True).start()
  lock(mutex)
  lock(mutex)  # which is locked already: for ever
'''


def _start(at_once=False):
  child = subprocess.Popen(
      [sys.executable, '-c', CODE.format(at_once=at_once)],
      stdout=subprocess.PIPE, text=True)
  assert child.stdout.readline() == 'ready\n'
  return child


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_leaves_though_the_main_thread_hangs(number):
  child = _start()
  try:
    child.send_signal(number)
    child.send_signal(number)  # the same Ctrl-C, by way of a launcher
    assert child.stdout.readline() == 'heard\n'
    time.sleep(1.5)
    assert child.poll() is None
    child.send_signal(number)
    assert child.wait(timeout=60) == 128 + number
  finally:
    child.kill()


def test_the_first_leaves_though_the_main_thread_hangs_with_nothing_to_save():
  child = _start(at_once=True)
  try:
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == stopping.RUN_AGAIN
    assert child.stdout.read() == (
        'heard\nSIGTERM: there was nothing to save\n')
  finally:
    child.kill()

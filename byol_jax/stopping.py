"""SIGTERM and SIGINT: a scheduler's warning, or Ctrl-C.

The first one asks: what is under way ends at a point from which it can go on,
and the job leaves with `RUN_AGAIN`. A second one leaves at once.
"""

from collections.abc import Iterator
import contextlib
import importlib.machinery
import signal
import socket
import sys
import threading
import time
import types

from byol_jax import terminal

# EX_TEMPFAIL of sysexits.h: the same command, given again, goes on.
RUN_AGAIN = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# One Ctrl-C may arrive twice, from the terminal and from a launcher.
_SAME_SIGNAL_SECS = 1.0
# For Python to leave by itself where there is nothing to wait for.
_UNWIND_SECS = 5.0
# Until what could not raise has ended.
_AGAIN_SECS = 0.01


class UnfinishedError(SystemExit):
  """The same command, given again, goes on; its code is `RUN_AGAIN`."""

  def __init__(self, message: str):
    """`message` says, in a line, why, or what is kept."""
    super().__init__(RUN_AGAIN)
    self.message = message

  def __str__(self) -> str:
    return self.message


class Preempted(UnfinishedError):
  """The job was asked to stop."""


class PreemptedAtOnce(Preempted):
  """Wherever the main thread was, and what it began may go on beside it."""


class Requests:
  """What the signals asked for so far.

  Attributes:
    requested: the job is to stop where it can go on.
    at_once: there is nothing to save; the first signal raises
      `PreemptedAtOnce`, wherever the main thread is.
    kept: what the message says then.
    ending: what was raised, or will be where that can be; None before.
  """

  def __init__(
      self, at_once: bool = False, kept: str = 'there was nothing to save'):
    """Nothing was asked for yet."""
    self.requested = False
    self.at_once = at_once
    self.kept = kept
    self.ending: PreemptedAtOnce | None = None
    self._first = None  # when the first signal came
    self._leave = None  # where there is nothing to wait for
    self._alarm_before = None  # the handler that ours takes the place of
    self._is_over = False

  def leave_at_once(self) -> None:
    """From now on there is nothing to save, also of what was asked before.

    Raises:
      Preempted: if the job was asked to stop.
    """
    self.at_once = True
    if self.requested:
      raise Preempted(f'asked to stop: {self.kept}')

  def on_signal(self, number: int, frame: types.FrameType | None = None
                ) -> None:
    """In the main thread, as soon as that runs Python."""
    self.requested = True
    if self.at_once and self.ending is None:
      self.ending = PreemptedAtOnce(self._describe(number))
      self._raise(frame)

  def on_unraised(self, error: BaseException | None) -> bool:
    """Raises it again soon, if it is ours; returns whether it is.

    Python calls back where nobody can raise: as it collects garbage, or lets
    go of what is weakly held. While a step is traced it often does. And C++
    code may say an error of its own, raised from ours, and go on, as
    TensorFlow's does where it imports. What is no more than raised while ours
    is handled, as by a destructor in a clean-up, is others'.
    """
    is_ours = self.ending is not None and (
        error is self.ending
        or getattr(error, '__cause__', None) is self.ending)
    if is_ours:
      self._raise_soon()
    return is_ours

  def _raise(self, frame: types.FrameType | None) -> None:
    if _is_loading_c(frame):
      self._raise_soon()
    else:
      raise self.ending

  def _raise_soon(self) -> None:
    """By the process's alarm, which `end` gives back."""
    if self._is_over:
      return
    if self._alarm_before is None:
      self._alarm_before = signal.signal(signal.SIGALRM, self._on_alarm)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECS)

  def _on_alarm(self, _: int, frame: types.FrameType | None) -> None:
    if self.at_once and not self._is_over:
      self._raise(frame)

  def end(self) -> None:
    """From now on nothing is raised; the alarm is whose it was."""
    self._is_over = True
    if self._alarm_before is not None:
      signal.setitimer(signal.ITIMER_REAL, 0)
      signal.signal(signal.SIGALRM, self._alarm_before)

  def on_byte(self, number: int) -> None:
    """In a thread, at once, even while the main thread waits for devices."""
    if number not in _SIGNALS:
      return
    if self._first is None:
      self._first = time.monotonic()
      if self.at_once:
        self._leave = threading.Timer(_UNWIND_SECS, self._go, (number,))
        self._leave.daemon = True
        self._leave.start()
    elif time.monotonic() - self._first > _SAME_SIGNAL_SECS:
      terminal.leave(128 + number)

  def _describe(self, number: int) -> str:
    return f'{signal.Signals(number).name}: {self.kept}'

  def _go(self, number: int) -> None:
    """In the place of a main thread that did not come to say it."""
    if self.at_once:  # still
      terminal.leave(RUN_AGAIN, f'{self._describe(number)}\n', descriptor=1)

  def close(self) -> None:
    """What was asked for is being done."""
    if self._leave is not None:
      self._leave.cancel()


def _is_loading_c(frame: types.FrameType | None) -> bool:
  """Whether a module of C is being made: JAX's and TensorFlow's crash then."""
  while frame is not None:
    code = frame.f_code
    if (code.co_name in ('create_module', 'exec_module') and isinstance(
        frame.f_locals.get('self'), importlib.machinery.ExtensionFileLoader)):
      return True
    frame = frame.f_back
  return False


@contextlib.contextmanager
def requests(at_once: bool = False, **settings: str) -> Iterator[Requests]:
  """Listens to the signals; as they were when it ends.

  Outside the main thread, where Python lets nobody listen, nothing is ever
  asked for.

  Args:
    at_once: see `Requests`.
    **settings: likewise.
  """
  asked = Requests(at_once, **settings)
  if threading.current_thread() is not threading.main_thread():
    yield asked
    return
  reader, writer = socket.socketpair()
  writer.setblocking(False)
  # Python's own handlers wait for the main thread, which may hang; the bytes
  # are written from C.
  before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
  handlers = {s: signal.signal(s, asked.on_signal) for s in _SIGNALS}
  say_unraisable, say_uncaught = sys.unraisablehook, sys.excepthook
  sys.unraisablehook = lambda unraisable: (
      asked.on_unraised(unraisable.exc_value) or say_unraisable(unraisable))
  sys.excepthook = lambda kind, error, traceback: (
      asked.on_unraised(error) or say_uncaught(kind, error, traceback))

  def read() -> None:
    for number in iter(lambda: reader.recv(1), b''):
      asked.on_byte(number[0])

  thread = threading.Thread(target=read, name='signals', daemon=True)
  thread.start()
  try:
    try:
      yield asked
    finally:
      asked.end()
    if asked.ending is not None:  # and could not be raised
      raise asked.ending
  except Exception as error:
    # C++ code that calls Python may replace what is raised there, as
    # TensorFlow's does, by an error of its own.
    if asked.ending is not None:
      raise asked.ending from error
    raise
  finally:
    sys.unraisablehook, sys.excepthook = say_unraisable, say_uncaught
    for number, handler in handlers.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(before)
    writer.close()
    thread.join()
    reader.close()
    asked.close()

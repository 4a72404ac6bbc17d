"""What a job says, to a terminal or a log that may be full, or gone.

A job goes on, and leaves with its own code, whether or not anybody can read
what it says: `> run.log` fills a disk, `| tee run.log` dies of the Ctrl-C that
stops the job.
"""

import _thread
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import sys
from typing import Any
from typing import NoReturn
from typing import TextIO

# For who has to leave: a terminal that is there, but does not read, could keep
# it for ever. Twice: stdout may be stuck where stderr is not.
_LAST_WORDS_SECS = 1.0


class _Stream:
  """A text stream that loses what cannot be written, and says so elsewhere."""

  def __init__(self, stream: TextIO, name: str, elsewhere: int | None):
    """`elsewhere` is the file descriptor of the other of the two, if any."""
    self._stream = stream
    self._name = name
    self._elsewhere = elsewhere
    self._is_lost = False
    self._is_new = False  # something was written since

  def write(self, text: str) -> int:
    self._is_new = False
    with self._losing():
      self._stream.write(text)
      self._is_new = True
    return len(text)

  def flush(self) -> None:
    with self._losing():
      self._stream.flush()
      self._is_lost = self._is_lost and not self._is_new

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  @contextlib.contextmanager
  def _losing(self) -> Iterator[None]:
    try:
      yield
    except (OSError, ValueError) as error:
      # Who does not listen any more has chosen that.
      tell = not self._is_lost and not isinstance(error, BrokenPipeError)
      if tell and self._elsewhere is not None:
        _write(self._elsewhere, f'{self._name} cannot be written: {error}\n')
      self._is_lost = True


def keep_on() -> None:
  """From now on no `print` or log of this process fails."""
  if isinstance(sys.stdout, _Stream):
    return
  stdout, stderr = sys.stdout, sys.stderr  # None where they are closed
  sys.stdout = _Stream(
      stdout or open(os.devnull, 'w'), 'standard output', stderr and 2)
  sys.stderr = _Stream(
      stderr or open(os.devnull, 'w'), 'standard error', stdout and 1)


def last_words(text: str = '', descriptor: int = 2) -> None:
  """What was said so far, and `text`: in moments, or not at all.

  Whatever other threads are at, which may wait for the same terminal.
  """
  _try_for_a_second(lambda: sys.stdout.flush())
  _try_for_a_second(lambda: _write(descriptor, text))


def leave(code: int, text: str = '', descriptor: int = 2) -> NoReturn:
  """Ends the process here and now, with these last words."""
  try:
    last_words(text, descriptor)
  finally:
    os._exit(code)


def _write(descriptor: int, text: str) -> None:
  with contextlib.suppress(OSError):
    os.write(descriptor, text.encode(errors='backslashreplace'))


def _try_for_a_second(fn: Callable[[], object]) -> None:
  done = _thread.allocate_lock()
  done.acquire()

  def run() -> None:
    try:
      with contextlib.suppress(Exception):
        fn()
    finally:
      done.release()

  # Of `threading`, the start itself waits, at Python's end for ever.
  with contextlib.suppress(RuntimeError):  # there can be no more threads
    _thread.start_new_thread(run, ())
    done.acquire(timeout=_LAST_WORDS_SECS)

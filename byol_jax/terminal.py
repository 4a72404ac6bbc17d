"""What a job says, to a terminal or a log that may be full, or gone.

A job goes on, and leaves with its own code, whether or not anybody can read
what it says: `> run.log` fills a disk, `| tee run.log` dies of the Ctrl-C that
stops the job.
"""

from collections.abc import Iterator
import contextlib
import os
import sys
from typing import Any
from typing import TextIO


class _Stream:
  """A text stream that loses what cannot be written, and says so elsewhere."""

  def __init__(self, stream: TextIO, name: str, elsewhere: int):
    """`elsewhere` is the file descriptor of the other of the two."""
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
      if not self._is_lost and not isinstance(error, BrokenPipeError):
        write(self._elsewhere, f'{self._name} cannot be written: {error}\n')
      self._is_lost = True


def keep_on() -> None:
  """From now on no `print` or log of this process fails."""
  if not isinstance(sys.stdout, _Stream):
    sys.stdout = _Stream(sys.stdout, 'standard output', 2)
    sys.stderr = _Stream(sys.stderr, 'standard error', 1)


def write(descriptor: int, text: str) -> None:
  """At once, whatever other threads are at; perhaps in vain."""
  with contextlib.suppress(OSError):
    os.write(descriptor, text.encode())

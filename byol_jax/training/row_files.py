"""Files of rows that cost no run: what cannot be written waits until it can.
"""

import collections
from collections.abc import Callable
import contextlib
import json
import os
import time
from typing import Any

from absl import logging
from etils import epath

from byol_jax import failures
from byol_jax.data import remote
from byol_jax.quiet_tensorflow import tf

_REMOTE_FLUSH_SECS = 60.0


class Kept:
  """Rows on their way to a file, in order, each once.

  One that cannot be written stays, with all that follow, until it can be.
  """

  def __init__(self, name: str, file: Any):
    """`file.write(row)` raises where it leaves no trace of the row."""
    self._name = name
    self._file = file
    self._rows = collections.deque()
    self._is_stuck = False

  def put(self, row: Any) -> None:
    self._rows.append(row)
    self.flush()

  def flush(self, at_once: bool = False) -> None:
    try:
      while self._rows:
        self._file.write(self._rows[0])
        self._rows.popleft()
      if at_once:
        self._file.flush()
    except remote.FILE_ERRORS as error:
      if not self._is_stuck:
        logging.error(
            '%s cannot be written (%s); its rows are kept until it can be',
            self._name, failures.reason(error))
      self._is_stuck = True
      return
    if self._is_stuck:
      logging.error('%s can be written again, and has all its rows', self._name)
    self._is_stuck = False

  def close(self) -> None:
    self.flush(at_once=True)
    if self._rows:
      logging.error('%d rows of %s were lost', len(self._rows), self._name)
    with contextlib.suppress(*remote.FILE_ERRORS):
      self._file.close()


def open_rows(
    path: epath.Path, first_step: int, evaluation_due: bool = False) -> Any:
  """A .jsonl file that goes on at `first_step`; later rows are dropped.

  Args:
    path: of the file.
    first_step: that the run stands at.
    evaluation_due: whether rows of that step that are not of training are
      later ones too.
  """
  return (RemoteRowFile if is_remote(path) else RowFile)(
      path, first_step, evaluation_due)


class RowFile:
  """A .jsonl file; holds whole rows only, whatever happens."""

  def __init__(
      self, path: epath.Path, first_step: int, evaluation_due: bool = False):
    """See `open_rows`."""
    self._path = path
    _drop_rows_after(path, first_step, evaluation_due)
    self._file = open(path, 'ab', buffering=0)

  def write(self, row: bytes) -> None:
    end = self._file.seek(0, os.SEEK_END)
    try:
      while row:  # a disk that is nearly full takes a part
        row = row[self._file.write(row):]
    except OSError:
      with contextlib.suppress(OSError):
        self._file.truncate(end)
      raise

  def flush(self) -> None:
    """Every row is written at once."""

  def close(self) -> None:
    self._file.close()


class RemoteRowFile:
  """The same where files can only be written whole, such as gs://.

  So what is there is written anew, once a minute, and when told to.
  """

  def __init__(
      self, path: epath.Path, first_step: int, evaluation_due: bool = False):
    """See `open_rows`."""
    self._path = path
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else ()
    self._contents = b''.join(
        line for line in lines
        if not _is_later(line, first_step, evaluation_due))
    self._timer = _Timer()

  def write(self, row: bytes) -> None:
    before, self._contents = self._contents, self._contents + row
    if self._timer.is_due():
      try:
        self.flush()
      except Exception:
        self._contents = before
        raise

  def flush(self) -> None:
    self._path.write_bytes(self._contents)
    self._timer.reset()

  def close(self) -> None:
    """What is there is written."""


class _Timer:
  """Whether a minute has passed."""

  def __init__(self):
    self.reset()

  def reset(self) -> None:
    self._since = time.monotonic()

  def is_due(self) -> bool:
    return time.monotonic() - self._since > _REMOTE_FLUSH_SECS


class EventFile:
  """TensorBoard's file, and the next one where that failed.

  What TensorFlow has half written when it fails, it cannot take back, and
  TensorBoard reads no further than that.
  """

  def __init__(self, workdir: str):
    """Nothing is opened before the first row."""
    self._workdir = workdir
    self._writer = None
    self._timer = _Timer()

  def write(self, row: tuple[int, Callable[[], None]]) -> None:
    step, summarize = row
    try:
      if self._writer is None:
        self._writer = tf.summary.create_file_writer(str(self._workdir))
      with self._writer.as_default(step):
        summarize()
      # A flush to gs:// writes the whole file anew.
      if not is_remote(self._workdir) or self._timer.is_due():
        self.flush()
    except Exception:
      with contextlib.suppress(*remote.FILE_ERRORS):
        self.close()
      self._writer = None
      raise

  def flush(self) -> None:
    if self._writer is not None:
      self._writer.flush()
    self._timer.reset()

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()


def is_remote(path: epath.PathLike) -> bool:
  """Whether files there can only be written whole, as on gs://."""
  return '://' in str(path)


def _drop_rows_after(
    path: epath.Path, step: int, evaluation_due: bool) -> None:
  """Removes later rows, and a last line that was cut short."""
  if not path.exists():
    return
  lines = path.read_bytes().splitlines(keepends=True)
  kept = b''.join(
      line for line in lines if not _is_later(line, step, evaluation_due))
  if b''.join(lines).startswith(kept):
    os.truncate(path, len(kept))  # which a full disk allows
    return
  partial = path.with_suffix('.partial')
  partial.write_bytes(kept)
  os.replace(partial, path)


def _is_later(line: bytes, step: int, evaluation_due: bool) -> bool:
  """Also what is no whole row: the run was killed while writing it."""
  try:
    row = json.loads(line) if line.endswith(b'\n') else None
  except ValueError:
    row = None
  if row is None or row['step'] != step:
    return row is None or row['step'] > step
  return evaluation_due and 'train/loss' not in row

"""Letting TFDS download and prepare a dataset, but never hanging on it.

TFDS retries for minutes where nothing answers. It therefore works in a child
process, which is stopped as soon as it has done nothing for a while: neither
written a byte nor computed anything. What makes progress may take its time.
"""

import os
import pathlib
import re
import subprocess
import sys
import threading
import time
from typing import TextIO

_PATIENCE_SECS = 20.0
_START_SECS = 120.0  # for the child's imports, on a slow disk
_POLL_SECS = 0.5
# Processor time, per patience, above which the child counts as busy
# (extracting, say). Retrying a connection costs far less.
_BUSY_SECS = 1.0


class DownloadError(RuntimeError):
  """Why a dataset could not be had, in one line."""


def download_and_prepare(
    name: str, data_dir: str, *,
    patience_secs: float = _PATIENCE_SECS) -> None:
  """Downloads and prepares a TFDS dataset in a child process.

  Args:
    name: as `tfds.builder` takes it.
    data_dir: TFDS's directory.
    patience_secs: without any progress, after which to give up.

  Raises:
    DownloadError: nothing answered, or TFDS failed.
  """
  command = [sys.executable, '-m', 'byol_jax.data.download', name, data_dir]
  package = str(pathlib.Path(__file__).parents[2])
  path = os.pathsep.join(
      filter(None, [package, os.environ.get('PYTHONPATH')]))
  run_while_active(
      command, watched_dir=data_dir, patience_secs=patience_secs,
      env=os.environ | {'PYTHONPATH': path})


def run_while_active(
    command: list[str], *, watched_dir: str, patience_secs: float,
    start_secs: float = _START_SECS, env: dict[str, str] | None = None,
) -> None:
  """Runs a command that reports its processor time; stops it if it idles.

  Args:
    command: writes its processor time in seconds, a line now and then, to
      stdout, the first line when it starts to work, and says on the last line
      of stderr what went wrong if it fails.
    watched_dir: where growing files are progress.
    patience_secs: without progress, after which to stop it; counted from its
      first line.
    start_secs: without a first line, after which to stop it.
    env: of the command.

  Raises:
    DownloadError: the command did not start, idled or failed.
  """
  child = subprocess.Popen(
      command, env=env, text=True, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE)
  clock, errors = _Collector(child.stdout), _Collector(child.stderr)
  try:
    _wait_for_start(child, clock, start_secs)
    seen_bytes, seen_cpu, since = 0, 0.0, time.monotonic()
    while child.poll() is None:
      num_bytes, cpu = _num_bytes(watched_dir), float(clock.last() or 0.0)
      if num_bytes != seen_bytes or cpu > seen_cpu + _BUSY_SECS:
        seen_bytes, seen_cpu, since = num_bytes, cpu, time.monotonic()
      if time.monotonic() - since > patience_secs:
        raise DownloadError(f'nothing answered in {patience_secs:.0f} seconds')
      time.sleep(_POLL_SECS)
  finally:
    child.kill()
    child.wait()
  if child.returncode:
    raise DownloadError(errors.last() or f'exit code {child.returncode}')


def _wait_for_start(
    child: subprocess.Popen[str], clock: '_Collector', start_secs: float,
) -> None:
  """Until the child's first line, or its end."""
  begin = time.monotonic()
  while child.poll() is None and not clock.last():
    if time.monotonic() - begin > start_secs:
      raise DownloadError(
          f'the download did not start in {start_secs:.0f} seconds')
    time.sleep(_POLL_SECS)


class _Collector(threading.Thread):
  """Drains a pipe, so that the child never blocks, and keeps its last line."""

  def __init__(self, pipe):
    super().__init__(daemon=True)
    self._pipe = pipe
    self._last = ''
    self.start()

  def run(self):
    for line in self._pipe:
      self._last = line.strip() or self._last

  def last(self) -> str:
    if not self._pipe.closed:
      self.join(timeout=0.01)
    return self._last


def _num_bytes(folder: str) -> int:
  total = 0
  for parent, _, names in os.walk(folder):
    for name in names:
      try:
        total += os.stat(os.path.join(parent, name)).st_size
      except FileNotFoundError:  # renamed meanwhile
        pass
  return total


def _report_processor_time(output: TextIO) -> None:
  while True:
    print(time.process_time(), file=output, flush=True)
    time.sleep(_POLL_SECS)


def _main(name: str, data_dir: str) -> None:
  import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top
  # The clock has stdout to itself; what TFDS prints goes the other way.
  clock, sys.stdout = sys.stdout, sys.stderr
  threading.Thread(
      target=_report_processor_time, args=(clock,), daemon=True).start()
  try:
    tfds.builder(name, data_dir=data_dir).download_and_prepare()
  except Exception as error:  # pylint: disable=broad-except
    # One line for the parent; TFDS's own messages are pages.
    text = re.sub(r'\s+', ' ', f'{type(error).__name__}: {error}')
    print(text[:300], file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  _main(*sys.argv[1:])

"""Work on many files in threads: counted, shown, and stopped together."""

from collections.abc import Callable
from collections.abc import Sequence
import concurrent.futures
import threading
import time
from typing import TypeVar

from absl import logging

_PROGRESS_SECS = 10.0
_MEGABYTE = 10**6
_Task = TypeVar('_Task')
_Result = TypeVar('_Result')


def run_all(
    fn: Callable[[_Task], _Result], tasks: Sequence[_Task], num_threads: int,
    progress: 'Progress') -> list[_Result]:
  """Calls `fn` of each task in threads; the first error, or a signal, ends all.

  Args:
    fn: tells `progress` often how far it is.
    tasks: to be done.
    num_threads: at the same time.
    progress: of all of them.
  """
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    try:
      futures = [pool.submit(fn, task) for task in tasks]
      concurrent.futures.wait(
          futures, return_when=concurrent.futures.FIRST_EXCEPTION)
      failed = [future for future in futures if future.done()
                and not future.cancelled() and future.exception()]
      return [future.result() for future in failed or futures]
    finally:
      progress.stop()
      pool.shutdown(wait=False, cancel_futures=True)


class Progress:
  """Counts images over threads, says now and then how many, and stops them."""

  def __init__(self, what: str, num_images: int):
    """`what` is being done to `num_images`."""
    self._what = what
    self._num_images = num_images
    self._count = self._num_bytes = 0
    self._began = self._said = time.monotonic()
    self._stopped = False
    self._lock = threading.Lock()

  def advance(self, num_images: int, num_bytes: int) -> None:
    """So many more are done.

    Raises:
      CancelledError: the others have been stopped.
    """
    if self._stopped:
      raise concurrent.futures.CancelledError
    with self._lock:
      self._count += num_images
      self._num_bytes += num_bytes
      now = time.monotonic()
      if now - self._said > _PROGRESS_SECS:
        self._said = now
        self._say(now - self._began)

  def stop(self) -> None:
    """Lets every thread leave at its next image."""
    self._stopped = True

  def _say(self, secs: float) -> None:
    left = secs * (self._num_images - self._count) / max(self._count, 1)
    logging.info(
        '%s %d of %d images, %.0f MB/s, about %.0f s left.', self._what,
        self._count, self._num_images, self._num_bytes / secs / _MEGABYTE, left)

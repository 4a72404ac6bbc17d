"""How long the devices wait for images."""

from collections.abc import Iterator
import concurrent.futures
import queue
import threading
import time
from typing import Any

import jax

# Of the time; more than that is worth a line.
WORTH_A_LINE = 0.1
SECONDS_TO_JUDGE = 30.0


class InputWait:
  """Adds up the time from the end of a step to the start of the next one.

  Only as far as the host was waiting for the next one's batch: what it did
  besides, an evaluation or a save, is not the input's.
  """

  def __init__(self):
    self._steps = queue.SimpleQueue()  # that are under way; None: no more
    self._ended = None  # a future: when the step before did, or will have
    self._asked_at = 0.0
    self._seconds = 0.0
    # A daemon: where another process is lost, a step may never end.
    threading.Thread(target=self._watch, daemon=True).start()

  def take(self, batches: Iterator[Any]) -> Any:
    """The next batch."""
    self._asked_at = time.monotonic()
    return next(batches)

  def started(self, outputs: Any) -> None:
    """A step on that batch was dispatched, and will yield `outputs`."""
    now = time.monotonic()
    if self._ended is not None and self._ended.done():
      self._seconds += now - max(self._ended.result(), self._asked_at)
    self._ended = concurrent.futures.Future()
    self._steps.put((self._ended, outputs))

  def _watch(self) -> None:
    while (step := self._steps.get()) is not None:
      ended, outputs = step
      try:
        jax.block_until_ready(outputs)
      except Exception:  # pylint: disable=broad-except
        return  # the loop meets it, too
      ended.set_result(time.monotonic())

  def take_seconds(self) -> float:
    """What has added up since this was last asked."""
    seconds, self._seconds = self._seconds, 0.0
    return seconds

  def close(self) -> None:
    """No more steps come."""
    self._steps.put(None)


def advice(share: float, on_device: bool) -> str:
  """What to do where the devices have waited for this share of the time.

  Args:
    share: in [0, 1].
    on_device: `config.augment.device`.
  """
  if jax.default_backend() == 'cpu':
    todo = 'the input and the step share the cores of this machine'
  elif on_device:
    todo = 'give the hosts more cores, or the devices a larger network'
  else:
    todo = (
        '--config.augment.device=True has the devices do half of what the '
        'input does')
  return (
      f'note: the devices wait for images {100 * share:.0f} % of the time: '
      f'{todo} (docs/performance.md)')

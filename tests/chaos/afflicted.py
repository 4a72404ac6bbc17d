"""`byol_jax.pretrain` with what cannot be done to a process from outside.

    python -m tests.chaos.afflicted [--FLAG=VALUE ...]

Takes the flags of `byol_jax.pretrain`; what is to happen is said by variables
of the environment, each of which may be absent:

    CHAOS_HANG_WHERE=DIR     stop reading data, for ever, when DIR/PROCESS is
                             there; it is removed. DIR/PROCESS.saving: where
                             a save begins
    CHAOS_NAN_PLACES=50,60   batches at these places of the order hold NaN
    CHAOS_LEAVE_OUT=50,60    batches at these places are left out from the start
    CHAOS_CLOCK=SECONDS      every so many, the clock jumps by a year, back and
                             forth
    CHAOS_EVALUATION=SECONDS each batch of an evaluation takes as much longer
"""

from collections.abc import Iterator
import datetime
import os
import pathlib
import runpy
import sys
import time
from typing import Any

YEAR_SECS = 365 * 86400


def _places(name: str) -> list[int]:
  return [int(place) for place in os.environ.get(name, '').split(',') if place]


class _Dataset:
  """Batches of the real one, as they come, or not."""

  def __init__(self, dataset: Any, first_place: int):
    self._dataset = dataset
    self._first_place = first_place

  def as_numpy_iterator(self) -> Iterator[dict[str, Any]]:
    poisoned = _places('CHAOS_NAN_PLACES')
    for place, batch in enumerate(
        self._dataset.as_numpy_iterator(), self._first_place):
      _hang_if_told()
      if place in poisoned:
        batch['views'] = tuple(view * float('nan') for view in batch['views'])
      yield batch


def _hang_if_told(when: str = '') -> None:
  where = os.environ.get('CHAOS_HANG_WHERE')
  if not where:
    return
  me = next((argument.partition('=')[2] for argument in sys.argv
             if argument.startswith('--process_id=')), '0')
  sign = pathlib.Path(where, f'{me}{when}')
  if sign.exists():
    sign.unlink()
    while True:
      time.sleep(1)


def _afflict_data() -> None:
  from byol_jax.data import pipeline
  create = pipeline.create_train_dataset

  def create_afflicted(*args: Any, start_step: int = 0, **kwargs: Any) -> Any:
    return _Dataset(
        create(*args, start_step=start_step, **kwargs), start_step)

  pipeline.create_train_dataset = create_afflicted


def _afflict_saves() -> None:
  from byol_jax.training import journal
  flush = journal.Journal.flush

  def flush_or_hang(self: journal.Journal) -> None:
    _hang_if_told('.saving')
    flush(self)

  journal.Journal.flush = flush_or_hang


def _leave_out(places: list[int]) -> None:
  from byol_jax.training import resume
  first_note = resume.first_note
  resume.first_note = lambda setup: (
      first_note(setup) | {'skipped_batches': list(places)})


def _slow_evaluations(seconds: float) -> None:
  from byol_jax.training import loop
  check = loop.Loop._check_asked

  def check_slowly(self: loop.Loop) -> None:
    time.sleep(seconds)
    check(self)

  loop.Loop._check_asked = check_slowly


def _make_clock_jump(every_secs: float) -> None:
  """Of Python; of C++, only what is measured by the monotonic clock matters."""
  begin, now, now_ns = time.monotonic(), time.time, time.time_ns

  def offset() -> int:
    jumps = int((time.monotonic() - begin) / every_secs)
    return (0, YEAR_SECS, 0, -YEAR_SECS)[jumps % 4]

  class _Jumping(datetime.datetime):
    """Jumps with the rest."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
      return cls.fromtimestamp(time.time(), tz)

  time.time = lambda: now() + offset()
  time.time_ns = lambda: now_ns() + offset() * 10**9
  datetime.datetime = _Jumping


def main() -> None:
  """Afflicts this process, then is the job."""
  if seconds := os.environ.get('CHAOS_CLOCK'):
    _make_clock_jump(float(seconds))
  if seconds := os.environ.get('CHAOS_EVALUATION'):
    _slow_evaluations(float(seconds))
  if places := _places('CHAOS_LEAVE_OUT'):
    _leave_out(places)
  _afflict_data()
  if os.environ.get('CHAOS_HANG_WHERE'):
    _afflict_saves()
  runpy.run_module('byol_jax.pretrain', run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()

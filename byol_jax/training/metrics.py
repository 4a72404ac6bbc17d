"""Where a run's numbers go: two .jsonl files, TensorBoard, the terminal."""

import collections
from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import sys
from typing import Any

from absl import logging
import numpy as np
from tensorboard.plugins.histogram import metadata as histogram_metadata
import tqdm

from byol_jax import failures
from byol_jax.quiet_tensorflow import tf


@dataclasses.dataclass(frozen=True)
class Distribution:
  """Bars of equal width.

  Attributes:
    heights: f64[K].
    low: where the first bar begins.
    high: where the last one ends.
  """

  heights: np.ndarray
  low: float
  high: float


class MetricWriter:
  """Writes scalars to metrics.jsonl, distributions to distributions.jsonl.

  Both to TensorBoard's event files too. What cannot be written, for want of
  space or whatever else, is kept, and written when it can be: rows cost no run.
  """

  def __init__(self, workdir: str, first_step: int):
    """Continues at `first_step`; later rows, of a lost run, are dropped."""
    self._scalars, self._distributions = (
        _Kept(path.name, _RowFile(path, first_step))
        for path in (pathlib.Path(workdir) / f'{name}.jsonl'
                     for name in ('metrics', 'distributions')))
    self._events = _Kept("TensorBoard's event file", _EventFile(workdir))
    self._all = (self._scalars, self._distributions, self._events)

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes one row; what is not finite is written as a string."""
    scalars = dict(scalars)
    self._scalars.put(_row(step, {
        name: _to_json(value) for name, value in scalars.items()}))

    def summarize() -> None:
      for name, value in scalars.items():
        tf.summary.scalar(name, value)

    self._events.put((step, summarize))

  def write_distributions(
      self, step: int, distributions: Mapping[str, Distribution]) -> None:
    """Writes one row of lists, the bars' heights to four digits."""
    if not distributions:
      return
    distributions = dict(distributions)
    self._distributions.put(_row(step, {
        name: [_to_json(float(f'{height:.4g}')) for height in bars.heights]
        for name, bars in distributions.items()}))
    metadata = histogram_metadata.create_summary_metadata(
        display_name=None, description=None)

    def summarize() -> None:
      for name, bars in distributions.items():
        # TensorBoard would count samples itself; here the bars are known.
        edges = np.linspace(bars.low, bars.high, len(bars.heights) + 1)
        buckets = np.stack([edges[:-1], edges[1:], bars.heights], axis=1)
        tf.summary.write(name, buckets, metadata=metadata)

    self._events.put((step, summarize))

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes uint8[H, W, 3] to TensorBoard."""
    self._events.put((step, lambda: tf.summary.image(name, image[None])))

  def flush(self) -> None:
    """Tries again to write what is kept."""
    for kept in self._all:
      kept.flush()

  def close(self) -> None:
    """Tries for the last time; what is still kept is lost, and counted."""
    for kept in self._all:
      kept.close()


class _Kept:
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

  def flush(self) -> None:
    if not self._rows:
      return
    try:
      while self._rows:
        self._file.write(self._rows[0])
        self._rows.popleft()
    except (OSError, tf.errors.OpError) as error:
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
    self.flush()
    if self._rows:
      logging.error('%d rows of %s were lost', len(self._rows), self._name)
    with contextlib.suppress(OSError, tf.errors.OpError):
      self._file.close()


class _RowFile:
  """A .jsonl file; holds whole rows only, whatever happens."""

  def __init__(self, path: pathlib.Path, first_step: int):
    """Goes on at `first_step`; later rows are dropped."""
    self._path = path
    _drop_rows_after(path, first_step)
    self._file = path.open('ab', buffering=0)

  def write(self, row: bytes) -> None:
    end = self._file.seek(0, os.SEEK_END)
    try:
      while row:  # a disk that is nearly full takes a part
        row = row[self._file.write(row):]
    except OSError:
      with contextlib.suppress(OSError):
        self._file.truncate(end)
      raise

  def close(self) -> None:
    self._file.close()


class _EventFile:
  """TensorBoard's file, and the next one where that failed.

  What TensorFlow has half written when it fails, it cannot take back, and
  TensorBoard reads no further than that.
  """

  def __init__(self, workdir: str):
    """Nothing is opened before the first row."""
    self._workdir = workdir
    self._writer = None

  def write(self, row: tuple[int, Callable[[], None]]) -> None:
    step, summarize = row
    try:
      if self._writer is None:
        self._writer = tf.summary.create_file_writer(str(self._workdir))
      with self._writer.as_default(step):
        summarize()
      self._writer.flush()
    except Exception:
      with contextlib.suppress(OSError, tf.errors.OpError):
        self.close()
      self._writer = None
      raise

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()


def _row(step: int, values: Mapping[str, Any]) -> bytes:
  return (json.dumps({'step': step} | values) + '\n').encode()


def _to_json(value: float) -> float | str:
  return value if math.isfinite(value) else str(value)


def _drop_rows_after(path: pathlib.Path, step: int) -> None:
  """Removes rows of later steps, and a last line that was cut short."""
  if not path.exists():
    return
  lines = path.read_bytes().splitlines(keepends=True)
  kept = b''.join(line for line in lines if _step_of(line) <= step)
  if b''.join(lines).startswith(kept):
    os.truncate(path, len(kept))  # which a full disk allows
    return
  partial = path.with_suffix('.partial')
  partial.write_bytes(kept)
  os.replace(partial, path)


def _step_of(line: bytes) -> float:
  """Infinity for what is no whole row: the run was killed while writing it."""
  try:
    return json.loads(line)['step'] if line.endswith(b'\n') else math.inf
  except ValueError:
    return math.inf


class Progress:
  """A live line on a terminal; a line at each report elsewhere."""

  def __init__(self, first_step: int, total_steps: int):
    self._total_steps = total_steps
    self._bar = tqdm.tqdm(
        total=total_steps, initial=first_step, file=sys.stdout, unit='step',
        disable=not sys.stdout.isatty(), dynamic_ncols=True, leave=True,
        bar_format='{percentage:3.0f}% {bar} {n}/{total} {desc}')

  def advance(self, step: int) -> None:
    """Moves the live line to `step`."""
    self._bar.update(step - self._bar.n)

  def report(
      self, step: int, *, epoch: float, loss: float,
      images_per_second: float, seconds_left: float,
  ) -> None:
    """Says where the run stands."""
    text = f'epoch {epoch:.2f}  loss {loss:.3f}'
    if images_per_second:
      text += (
          f'  {images_per_second:.0f} images/s  {clock(seconds_left)} left')
    if self._bar.disable:
      print(f'step {step}/{self._total_steps}  {text}', flush=True)
    else:
      self._bar.set_description_str(text)

  def say(self, message: str) -> None:
    """Prints a line without breaking the live one."""
    self._bar.write(message, file=sys.stdout)
    sys.stdout.flush()

  def close(self) -> None:
    self._bar.close()


def clock(seconds: float) -> str:
  """3725 to `1:02:05`."""
  minutes, seconds = divmod(round(max(seconds, 0)), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}'


def to_floats(metrics: Mapping[str, Any]) -> dict[str, float]:
  """Scalars of NumPy or JAX as Python's."""
  return {name: float(value) for name, value in metrics.items()}

"""Where a run's numbers go: two .jsonl files, TensorBoard, the terminal."""

from collections.abc import Mapping
import dataclasses
import json
import math
import sys
from typing import Any

from etils import epath
import numpy as np
from tensorboard.plugins.histogram import metadata as histogram_metadata
import tqdm

from byol_jax.quiet_tensorflow import tf
from byol_jax.training import row_files


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

  def __init__(
      self, workdir: str, first_step: int, evaluation_due: bool = False):
    """Continues at `first_step`; later rows, of a lost run, are dropped.

    So are those of an evaluation at that very step, if it is to come again.
    """
    self._scalars, self._distributions = (
        row_files.Kept(name, row_files.open_rows(
            epath.Path(workdir) / name, first_step, evaluation_due))
        for name in ('metrics.jsonl', 'distributions.jsonl'))
    self._events = row_files.Kept(
        "TensorBoard's event file", row_files.EventFile(workdir))
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
    """Writes now what waits, and tries again what could not be written."""
    for kept in self._all:
      kept.flush(at_once=True)

  def close(self) -> None:
    """Tries for the last time; what is still kept is lost, and counted."""
    for kept in self._all:
      kept.close()


def _row(step: int, values: Mapping[str, Any]) -> bytes:
  return (json.dumps({'step': step} | values) + '\n').encode()


def _to_json(value: float) -> float | str:
  return value if math.isfinite(value) else str(value)


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

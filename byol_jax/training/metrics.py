"""Where a run's numbers go: metrics.jsonl, TensorBoard, the terminal."""

from collections.abc import Mapping
import json
import math
import os
import pathlib
import sys
from typing import Any

import numpy as np
import tqdm

from byol_jax.quiet_tensorflow import tf


class MetricWriter:
  """Appends rows to metrics.jsonl and scalars to TensorBoard event files."""

  def __init__(self, workdir: str, first_step: int):
    """Continues at `first_step`; later rows, of a lost run, are dropped."""
    self._path = pathlib.Path(workdir) / 'metrics.jsonl'
    _drop_rows_after(self._path, first_step)
    self._file = self._path.open('a')
    self._writer = tf.summary.create_file_writer(str(workdir))

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes one row; what is not finite is written as a string."""
    row = {'step': step} | {
        k: v if math.isfinite(v) else str(v) for k, v in scalars.items()}
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()
    with self._writer.as_default(step):
      for name, value in scalars.items():
        tf.summary.scalar(name, value)

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes uint8[H, W, 3] to TensorBoard."""
    with self._writer.as_default(step):
      tf.summary.image(name, image[None])

  def close(self) -> None:
    self._file.close()
    self._writer.close()


def _drop_rows_after(path: pathlib.Path, step: int) -> None:
  """Removes rows of later steps, and a last line that was cut short."""
  if not path.exists():
    return
  kept = []
  for line in path.read_text().splitlines():
    try:
      if json.loads(line)['step'] <= step:
        kept.append(line + '\n')
    except json.JSONDecodeError:
      pass  # Only the last line can be: the run was killed while writing it.
  partial = path.with_suffix('.partial')
  partial.write_text(''.join(kept))
  os.replace(partial, path)


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

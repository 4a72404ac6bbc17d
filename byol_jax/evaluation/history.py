"""A run's metrics.jsonl and distributions.jsonl, read back."""

from collections.abc import Iterator
from collections.abc import Mapping
import json
from typing import Any

from etils import epath

Curve = tuple[list[float], list[float]]
# Steps, and what stood there: the heights of a distribution's bars.
Frames = tuple[list[int], list[list[float]]]


def read_curves(workdir: epath.PathLike) -> dict[str, Curve]:
  """Steps and values of each metric, in the order of the file.

  Values that were not finite come as NaN or infinity. A last line that was
  cut short is left out. No file gives no curves.
  """
  curves = {}
  for step, name, value in _read(epath.Path(workdir) / 'metrics.jsonl'):
    _append(curves, name, step, float(value))
  return curves


def read_distributions(workdir: epath.PathLike) -> dict[str, Frames]:
  """Steps and heights of each distribution; otherwise as `read_curves`."""
  frames = {}
  path = epath.Path(workdir) / 'distributions.jsonl'
  for step, name, heights in _read(path):
    _append(frames, name, step, [float(height) for height in heights])
  return frames


def _append(columns: dict[str, Any], name: str, step: int, value: Any) -> None:
  steps, values = columns.setdefault(name, ([], []))
  steps.append(step)
  values.append(value)


def _read(path: epath.Path) -> Iterator[tuple[int, str, Any]]:
  """Yields (step, name, value) of every row."""
  if not path.exists():
    return
  for line in path.read_text().splitlines():
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue
    for name, value in row.items():
      if name != 'step':
        yield row['step'], name, value


def last_values(curves: Mapping[str, Curve]) -> dict[str, float]:
  """The newest value of each metric."""
  return {name: values[-1] for name, (_, values) in curves.items()}

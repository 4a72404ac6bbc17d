"""A run's metrics.jsonl, read back."""

from collections.abc import Mapping
import json
import pathlib

Curve = tuple[list[int], list[float]]


def read_curves(workdir: str | pathlib.Path) -> dict[str, Curve]:
  """Steps and values of each metric, in the order of the file.

  Values that were not finite come as NaN or infinity. A last line that was
  cut short is left out. No file gives no curves.
  """
  path = pathlib.Path(workdir) / 'metrics.jsonl'
  curves = {}
  if not path.exists():
    return curves
  for line in path.read_text().splitlines():
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue
    for name, value in row.items():
      if name != 'step':
        steps, values = curves.setdefault(name, ([], []))
        steps.append(row['step'])
        values.append(float(value))
  return curves


def last_values(curves: Mapping[str, Curve]) -> dict[str, float]:
  """The newest value of each metric."""
  return {name: values[-1] for name, (_, values) in curves.items()}

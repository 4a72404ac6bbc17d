"""TensorStore's leak, which every save would add to: kept to a few strings.

What TensorStore turns from JSON into Python keeps one reference too many to
each key and value, so that it is never freed (0.1.76 to 0.1.86). Orbax asks it
for the specification of the same folder once for every array, and around each
save for counters of which it makes a log line: 75 KiB a save for 200 arrays.
"""

import copy
import functools
from typing import Any

import tensorstore as ts


def bound() -> None:
  """In this process; a second call changes nothing."""
  if not hasattr(ts.KvStore.Spec.to_json, '__wrapped__'):
    ts.KvStore.Spec.to_json = _once_for_each(ts.KvStore.Spec.to_json)
    ts.experimental_collect_matching_metrics = _no_counters


def _once_for_each(to_json: Any) -> Any:
  known: dict[tuple[str, bool], Any] = {}

  @functools.wraps(to_json)
  def wrapped(self: ts.KvStore.Spec, include_defaults: bool = False) -> Any:
    # Its text holds all that it does, and does not leak.
    key = repr(self), include_defaults
    found = known.get(key)
    if found is None:
      if len(known) >= 64:  # every save has its own folders
        known.clear()
      found = known[key] = to_json(self, include_defaults)
    return copy.deepcopy(found)

  return wrapped


def _no_counters(*_: Any, **__: Any) -> list[Any]:
  return []

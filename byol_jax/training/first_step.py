"""How long a run takes to its first step, and how much of it compiles."""

import time
from typing import Any

import jax

# What JAX calls the time in which a program is compiled, or loaded in place.
_COMPILE_EVENT = '/jax/core/compile/backend_compile_duration'


class Stopwatch:
  """Runs until the first step is done.

  Attributes:
    seconds: to the first step; None until then.
    compile_seconds: of these.
  """

  def __init__(self, begin: float | None = None):
    """`begin`: of the run, on the monotonic clock; None is now."""
    self.seconds = None
    self.compile_seconds = 0.0
    self._begin = time.monotonic() if begin is None else begin
    jax.monitoring.register_event_duration_secs_listener(self._hear)

  def _hear(self, event: str, seconds: float, **_: Any) -> None:
    if event == _COMPILE_EVENT:
      self.compile_seconds += seconds

  def stop(self) -> None:
    """The first step is done."""
    jax.monitoring.unregister_event_duration_listener(self._hear)
    self.seconds = time.monotonic() - self._begin

  def __str__(self) -> str:
    return (
        f'first step after {self.seconds:.1f} s '
        f'({self.compile_seconds:.1f} s of it compiling)')

  def figures(self) -> dict[str, float]:
    """For the run's first row of metrics."""
    return {
        'perf/first_step_seconds': self.seconds,
        'perf/compile_seconds': self.compile_seconds}

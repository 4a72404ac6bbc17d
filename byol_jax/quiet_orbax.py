"""orbax, whose failures are said once, in a line, by whoever called it.

It logs tracebacks, from several threads. And when one of many arrays cannot be
read or written, it closes the event loop that the others still report to, or
wait in: Python then prints a page for each of them.
"""

import logging as python_logging
import sys
from types import TracebackType
from typing import Any
import warnings

from absl import logging


def _is_left_behind(error: BaseException | None) -> bool:
  return isinstance(error, RuntimeError) and str(error) == (
      'Event loop is closed')


def quieten() -> None:
  """Leaves out its tracebacks in this process; everything else is shown."""
  logging.get_absl_logger().addFilter(
      lambda record: '/orbax/' not in record.pathname
      or record.levelno < logging.converter.STANDARD_WARNING)
  warnings.filterwarnings(
      'ignore', 'coroutine .* was never awaited', RuntimeWarning)
  # Of futures and tasks that are left behind.
  python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL + 1)
  show_raised, show_unraisable = sys.excepthook, sys.unraisablehook

  def on_raised(
      kind: type[BaseException], error: BaseException,
      where: TracebackType | None) -> None:
    # What ends the job itself is shown by `jobs.run`, not here.
    if not _is_left_behind(error):
      show_raised(kind, error, where)

  def on_unraisable(found: Any) -> None:
    code = getattr(found.object, 'cr_code', None)  # of a coroutine
    is_of_orbax = code is not None and '/orbax/' in code.co_filename
    if not is_of_orbax and not _is_left_behind(found.exc_value):
      show_unraisable(found)

  sys.excepthook, sys.unraisablehook = on_raised, on_unraisable

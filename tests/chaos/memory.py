"""Memory: what a process holds does not grow with its steps."""

from collections.abc import Iterator
import contextlib
import pathlib
import re

from tests.chaos import runs
from tests.chaos.runs import Lab
from tests.chaos.runs import Run
from tests.chaos.runs import Survived

_FIRST, _LAST = 100, 2000
_MAX_GROWTH = 0.02
_LONGER = (
    f'--config.total_steps={_LAST + 200}', '--config.log_every_steps=10',
    '--config.checkpoint_every_steps=50', '--config.final_protocols=()',
    '--config.evaluate_every_steps=100000')


def one_process(lab: Lab) -> Iterator[Survived]:
  """Saves and logs included."""
  workdir = lab.folder('memory')
  yield from _measure([lab.start(workdir, *_LONGER)], workdir)


def two_processes(lab: Lab) -> Iterator[Survived]:
  """Of two devices each; both are measured."""
  workdir = lab.folder('memory_two')
  yield from _measure(lab.two_under_way(workdir, 10, *_LONGER), workdir)


def _measure(started: list[Run], workdir: pathlib.Path) -> Iterator[Survived]:
  """From the first step to the last, and in the later part.

  There the least is compared: what saves take comes and goes.
  """
  sizes = {}
  for step in range(_FIRST, _LAST + 1, 100):
    started[0].until(
        lambda: runs.last_row(workdir) >= step, f'step {step}',  # noqa: B023
        1200, 0.02)
    sizes[step] = [_resident_bytes(run) for run in started]
  for run in started:
    run.ends(0)
  for i in range(len(started)):
    early, late = (
        min(sizes[step][i] for step in sizes if low <= step <= high)
        for low, high in ((500, 1000), (_LAST - 500, _LAST)))
    growth = max(late / early, sizes[_LAST][i] / sizes[_FIRST][i]) - 1
    runs.expect(growth <= _MAX_GROWTH, f'process {i} grew by {growth:.1%}')
    yield Survived(
        f'process {i}',
        note=f'{sizes[_FIRST][i] / 2**20:.0f} MiB at step {_FIRST}, '
        f'{sizes[_LAST][i] / 2**20:.0f} at step {_LAST}; the least of steps '
        f'500 to 1000 {early / 2**20:.0f}, of the last 500 '
        f'{late / 2**20:.0f}, {late / early - 1:+.2%}')


def _resident_bytes(run: Run) -> int:
  status = ''
  with contextlib.suppress(OSError):  # it has ended
    status = pathlib.Path(f'/proc/{run.pid}/status').read_text()
  found = re.search(r'VmRSS:\s+(\d+) kB', status)
  runs.expect(found, 'a process ended before it was measured')
  return int(found.group(1)) * 1024

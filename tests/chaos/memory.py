"""Memory: what a process holds does not grow with its steps."""

from collections.abc import Iterator
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
  sizes = []
  for step in (_FIRST, _LAST):
    started[0].until(
        lambda: runs.last_row(workdir) >= step, f'step {step}',  # noqa: B023
        1200, 0.02)
    sizes.append([_resident_bytes(run) for run in started])
  for run in started:
    run.ends(0)
  for i, (before, after) in enumerate(zip(*sizes, strict=True)):
    growth = after / before - 1
    runs.expect(growth <= _MAX_GROWTH, f'process {i} grew by {growth:.1%}')
    yield Survived(
        f'process {i}, steps {_FIRST} to {_LAST}',
        note=f'{before / 2**20:.0f} to {after / 2**20:.0f} MiB, {growth:+.2%}')


def _resident_bytes(run: Run) -> int:
  status = pathlib.Path(f'/proc/{run.pid}/status').read_text()
  return int(re.search(r'VmRSS:\s+(\d+) kB', status).group(1)) * 1024

"""Causes every trouble that a run must survive, and prints a row for each.

    python -m tests.chaos [--seed=0] [--only=NAME,...] [--list] [--short]
                          [--workdir=DIR] [--json=FILE]

The runs are real, tiny ones. Of each trouble: how often it was caused, how
often survived (the run said and did what it should, and ended bit-identical to
one that nothing happened to), what was lost beyond the last save, how long it
took. Exits with 1 if anything was not survived, or lost.
"""

import argparse
from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import json
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback

from byol_jax import quiet_orbax
from tests.chaos import disks
from tests.chaos import images
from tests.chaos import kills
from tests.chaos import memory
from tests.chaos import nonfinite
from tests.chaos import peers
from tests.chaos import runs
from tests.chaos import stops
from tests.chaos import surroundings

TROUBLES = {
    'kill -9': kills.kills,
    'SIGTERM, SIGINT': stops.one_process,
    'SIGTERM, SIGINT, one of two processes': stops.two_processes,
    'second signal': stops.again,
    'signal before the first step': stops.early,
    'signal during an evaluation': stops.in_evaluation,
    'signal, output unread': stops.unheard,
    'SIGTERM, quickstart network': stops.quickstart,
    'lost process of two': peers.lost,
    'lost process, launcher': peers.launcher,
    'damaged checkpoint': disks.damaged,
    'damaged file by file': disks.damaged_files,
    'all checkpoints damaged': disks.all_damaged,
    'full disk': disks.full,
    'full disk, two processes': disks.full_for_two,
    'full disk at the last save': disks.full_at_the_end,
    'full disk of the output': disks.full_log,
    'disk turns read-only': disks.turns_read_only,
    'workdir is read-only': disks.read_only,
    'two runs on one workdir': surroundings.two_runs,
    'clock jumps by a year': surroundings.clock,
    'changed config': surroundings.changed_config,
    'NaN: stop': nonfinite.stop,
    'NaN: rewind': nonfinite.rewind,
    'NaN: too often': nonfinite.too_often,
    'images rot': images.rot,
    'images rot, two processes': images.rot_for_two,
    'decompression bomb': images.bomb,
    'hostile names and links': images.hostile,
    'memory, one process': memory.one_process,
    'memory, two processes': memory.two_processes,
}


@dataclasses.dataclass
class Row:
  """What came of one trouble."""

  trouble: str
  tried: int = 0
  survived: int = 0
  lost: int = 0
  seconds: float = 0.0
  problem: str = ''  # what went wrong, or why it was not tried
  notes: list[str] = dataclasses.field(default_factory=list)

  @property
  def is_good(self) -> bool:
    return self.survived == self.tried and not self.lost


def try_one(
    trouble: str, cause: Callable[[runs.Lab], Iterator[runs.Survived]],
    lab: runs.Lab) -> Row:
  """Causes one trouble, and counts."""
  row, begin = Row(trouble), time.monotonic()
  lab.begin(trouble)
  try:
    for survived in cause(lab):
      row.tried += 1
      row.survived += 1
      row.lost += survived.lost
      note = f': {survived.note}' if survived.note else ''
      lost = f', {survived.lost} LOST' if survived.lost else ''
      row.notes += filter(None, [f'{survived.what}{note}{lost}'])
  except runs.FailedError as error:
    row.tried += error.tried
    row.problem = str(error)
  except runs.NotTriedError as error:
    row.problem = f'not tried: {error}'
  except Exception as error:  # the other rows are worth having
    traceback.print_exc()
    row.tried += 1
    row.problem = f'{type(error).__name__}: {error}'
  finally:
    lab.end()
  row.seconds = time.monotonic() - begin
  return row


def table_line(row: Row) -> str:
  tried = row.tried or 'not tried'
  return (f'{row.trouble:<38} {tried:>9} {row.survived:>9} {row.lost:>5} '
          f'{row.seconds:>8.0f}')


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='chaos', description=__doc__.partition('\n')[0])
  parser.add_argument('--seed', type=int, default=0, help='of what is random')
  parser.add_argument('--only', help='troubles, as --list names them, by comma')
  parser.add_argument('--list', action='store_true')
  parser.add_argument(
      '--short', action='store_true', help='each trouble less often')
  parser.add_argument(
      '--workdir', type=pathlib.Path,
      help='where the runs are kept; by default a new folder, removed at the '
      'end if all is well')
  parser.add_argument('--json', type=pathlib.Path, help='for the rows')
  return parser.parse_args()


def name_of(trouble: str) -> str:
  """For the command line."""
  return ''.join(c if c.isalnum() else '_' for c in trouble.lower()).replace(
      '__', '_').strip('_')


def _chosen(only: str | None) -> list[str]:
  names = {name_of(trouble): trouble for trouble in TROUBLES}
  if not only:
    return list(TROUBLES)
  unknown = set(only.split(',')) - set(names)
  if unknown:
    sys.exit(f'error: no trouble is called {sorted(unknown)[0]}; --list names '
             'all')
  return [names[name] for name in names if name in only.split(',')]


def main() -> int:
  """The command; its exit code."""
  options = _parse()
  # So that what was started and mounted is cleared away.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  quiet_orbax.quieten()  # restores what is damaged in this process, too
  if options.list:
    print('\n'.join(map(name_of, TROUBLES)))
    return 0
  root = options.workdir or pathlib.Path(
      tempfile.mkdtemp(prefix='byol_jax_chaos_'))
  root.mkdir(parents=True, exist_ok=True)
  root = root.resolve()
  lab = runs.Lab(root, options.seed, options.short)
  print(f'seed {options.seed}, runs in {root}')
  print(f'{"trouble":<38} {"tried":>9} {"survived":>9} {"lost":>5} '
        f'{"seconds":>8}', flush=True)
  rows = []
  for trouble in _chosen(options.only):
    rows.append(try_one(trouble, TROUBLES[trouble], lab))
    print(table_line(rows[-1]))
    for line in [*rows[-1].notes, *filter(None, [rows[-1].problem])]:
      print(f'    {line}', flush=True)
    if options.json:
      options.json.write_text(json.dumps(
          [dataclasses.asdict(row) for row in rows], indent=1) + '\n')
  bad = [row.trouble for row in rows if not row.is_good]
  if bad:
    print(f'not survived, or lost: {", ".join(bad)}; see {root}')
    return 1
  untried = [row.trouble for row in rows if not row.tried]
  print(f'{sum(row.survived for row in rows)} of '
        f'{sum(row.tried for row in rows)} survived, nothing lost'
        + (f'; not tried: {", ".join(untried)}' if untried else ''))
  if options.workdir is None:
    shutil.rmtree(root, ignore_errors=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())

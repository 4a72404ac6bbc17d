"""What is around a run: other runs, the clock, the config it is given."""

from collections.abc import Iterator
import re

from tests.chaos import runs
from tests.chaos.runs import Lab
from tests.chaos.runs import Survived


def two_runs(lab: Lab) -> Iterator[Survived]:
  """The second refuses, and the first does not notice."""
  workdir = lab.folder('shared')
  first = lab.start(workdir)
  first.until_said('compiling the step')
  line = lab.start(workdir).refuses(f'pid {first.pid}', 'another job')
  first.ends(0)
  runs.expect_same_end(workdir, lab.undisturbed())
  yield Survived(line)


def clock(lab: Lab) -> Iterator[Survived]:
  """Forth, back, and further back, all the time."""
  workdir = lab.folder('clock')
  run = lab.start(
      workdir, module='tests.chaos.afflicted', env={'CHAOS_CLOCK': '2'})
  run.ends(0)
  runs.expect_same_end(workdir, lab.undisturbed())
  yield Survived('every 2 s by a year, forth or back')


def changed_config(lab: Lab) -> Iterator[Survived]:
  """Refused with the fields; accepted with the flag, or where it is free."""
  workdir = lab.half('changed')
  change = '--config.base_learning_rate=0.25'
  line = lab.start(workdir, change).refuses(
      'base_learning_rate', '--accept_config_changes')
  yield Survived(line)
  free = lab.half('changed_freely')
  run = lab.start(free, '--config.checkpoint_every_steps=50')
  run.ends(0)
  runs.expect_same_end(free, lab.undisturbed())
  runs.expect(
      re.search('note: .*checkpoint_every_steps', run.text),
      'the change is not mentioned')
  yield Survived('a free field is noted, and the end is the same')
  if lab.is_short:
    return
  accepted = lab.start(workdir, change, '--accept_config_changes')
  accepted.ends(0)
  runs.expect(runs.newest_step(workdir) == runs.TOTAL_STEPS, 'it stopped early')
  yield Survived('--accept_config_changes goes on')

"""SIGTERM and SIGINT: what schedulers and people send."""

from collections.abc import Iterator
import pathlib
import re
import signal
import time

from tests.chaos import runs
from tests.chaos.runs import Lab
from tests.chaos.runs import Run
from tests.chaos.runs import Survived

# Of schedulers, the least: what a spot VM is left after its warning.
_GRACE_SECS = 30
_QUICKSTART_GRACE_SECS = 10
_TWO_STEPS = 80
_SHORTER = f'--config.total_steps={_TWO_STEPS}'


def one_process(lab: Lab) -> Iterator[Survived]:
  """Each signal, at a random step."""
  workdir, done = lab.folder('preempted'), []
  numbers = (signal.SIGTERM,) if lab.is_short else (
      signal.SIGTERM, signal.SIGINT)
  for number in numbers:
    run = lab.start(workdir)
    _advance(run, workdir, lab.rng.randrange(20, 90))
    run.signal(number)
    secs = run.ends(runs.RUN_AGAIN, _GRACE_SECS)
    step = _stopped_after(run)
    _expect_saved(workdir, step)
    done.append(Survived(f'{number.name} in step {step}', note=f'{secs:.1f} s'))
  lab.start(workdir).ends(0)
  runs.expect_same_end(workdir, lab.undisturbed())
  yield from done


def two_processes(lab: Lab) -> Iterator[Survived]:
  """Only one is told; both stop after the same step."""
  workdir, done = lab.folder('preempted_two'), []
  for told, number in ((1, signal.SIGTERM), (0, signal.SIGINT)):
    pair = lab.two_under_way(workdir, lab.rng.randrange(5, 20), _SHORTER)
    pair[told].signal(number)
    secs = max(run.ends(runs.RUN_AGAIN, _GRACE_SECS) for run in pair)
    steps = [_stopped_after(run) for run in pair]
    runs.expect(steps[0] == steps[1], f'they stopped after steps {steps}')
    _expect_saved(workdir, steps[0])
    done.append(Survived(
        f'{number.name} to process {told} alone, in step {steps[0]}',
        note=f'{secs:.1f} s'))
  for run in lab.two_under_way(workdir, 1, _SHORTER):
    run.ends(0)
  runs.expect_same_end(workdir, lab.undisturbed(_SHORTER, processes=2))
  yield from done


def again(lab: Lab) -> Iterator[Survived]:
  """A second signal, while the first waits for a process that is frozen."""
  workdir = lab.folder('impatient')
  pair = lab.two_under_way(workdir, 10, _SHORTER, '--peer_timeout_secs=300')
  pair[1].signal(signal.SIGSTOP)
  time.sleep(0.5)
  pair[0].signal(signal.SIGTERM)
  time.sleep(2)
  runs.expect(pair[0].is_running, 'the first signal did not wait')
  pair[0].signal(signal.SIGTERM)
  secs = pair[0].ends(128 + signal.SIGTERM, 5)
  pair[1].kill()
  yield Survived('main thread waits for a frozen process', note=f'{secs:.1f} s')


def early(lab: Lab) -> Iterator[Survived]:
  """Before the first step there is nothing to save."""
  workdir = lab.folder('early')
  run = lab.start(workdir)
  run.until_said('compiling the step')
  run.signal(signal.SIGTERM)
  secs = run.ends(runs.RUN_AGAIN, 10)
  runs.expect(not runs.steps_saved(workdir), 'something was saved')
  yield Survived('while the step compiles', note=f'{secs:.1f} s')


def in_evaluation(lab: Lab) -> Iterator[Survived]:
  """It is left off, and made when the run goes on."""
  workdir = lab.folder('evaluating')
  often = '--config.evaluate_every_steps=40', _SHORTER
  slowly = {'CHAOS_EVALUATION': '2'}  # seconds for each of its batches
  run = lab.start(
      workdir, *often, module='tests.chaos.afflicted', env=slowly)
  _advance(run, workdir, 40)
  time.sleep(1)
  run.signal(signal.SIGTERM)
  secs = run.ends(runs.RUN_AGAIN, _GRACE_SECS)
  _expect_saved(workdir, 40)
  lab.start(workdir, *often).ends(0)
  runs.expect_same_end(workdir, lab.undisturbed(*often))
  yield Survived('its row was written by the next run', note=f'{secs:.1f} s')


def unheard(lab: Lab) -> Iterator[Survived]:
  """Who read what the run says is gone: `| tee` dies of Ctrl-C, too."""
  workdir = lab.folder('unheard')
  run = lab.start_command(
      ['bash', '-c', 'exec "$@" > >(head --lines=1) 2>&1', 'bash',
       *lab.command(workdir)], 'unheard')
  run.until(lambda: runs.last_row(workdir) >= 50, 'rows')
  run.signal(signal.SIGINT)
  secs = run.ends(runs.RUN_AGAIN, _GRACE_SECS)
  runs.expect('stopped after' not in run.text, 'it was heard to the end')
  runs.expect(runs.newest_step(workdir) >= 50, 'its last step is not saved')
  lab.start(workdir).ends(0)
  runs.expect_same_end(workdir, lab.undisturbed())
  yield Survived('SIGINT, when nobody reads', note=f'{secs:.1f} s')


def quickstart(lab: Lab) -> Iterator[Survived]:
  """The quickstart's own network and batch, on images that are there."""
  workdir = lab.folder('quickstart')
  run = lab.start(workdir, arguments=(
      '--config=configs/quickstart.py', '--config.data=fake:2048',
      '--config.log_every_steps=1'))
  _advance(run, workdir, 10)
  run.signal(signal.SIGTERM)
  secs = run.ends(runs.RUN_AGAIN, _GRACE_SECS)
  _expect_saved(workdir, _stopped_after(run))
  runs.expect(secs < _QUICKSTART_GRACE_SECS, f'it took {secs:.1f} s')
  yield Survived('SIGTERM to the end of the process', note=f'{secs:.1f} s')


def _advance(run: Run, workdir: pathlib.Path, steps: int) -> None:
  """Lets it go on for so many steps, or up to them if it is new."""
  run.until_said('compiling the step')
  goal = runs.last_row(workdir) + steps
  run.until(lambda: runs.last_row(workdir) >= goal, f'the row of step {goal}')


def _stopped_after(run: Run) -> int:
  found = re.search(r'^stopped after step (\d+), saved', run.text, re.M)
  runs.expect(found, f'it does not say that it saved: {run.text[-300:]!r}')
  return int(found.group(1))


def _expect_saved(workdir: pathlib.Path, step: int) -> None:
  newest = runs.newest_step(workdir)
  runs.expect(newest == step, f'step {newest} is saved, not {step}')

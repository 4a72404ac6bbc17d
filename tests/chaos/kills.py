"""`kill -9`, whenever."""

from collections.abc import Iterator
import pathlib
import random
import signal
import time

from tests.chaos import runs
from tests.chaos.runs import Lab
from tests.chaos.runs import Run
from tests.chaos.runs import Survived

# By moment. Those of a save are right after its folder has appeared.
_MOMENTS = {'starting': 3, 'saving': 9, 'any moment': 5, 'final evaluation': 3}
_FINAL = "--config.final_protocols=('knn',)"
_SHORT_MOMENTS = {'saving': 1}
_SHORT = '--config.total_steps=100'


def kills(lab: Lab) -> Iterator[Survived]:
  """One run, killed again and again, and started again as often."""
  counts = _SHORT_MOMENTS if lab.is_short else _MOMENTS
  moments = [m for m, n in counts.items() for _ in range(n)]
  lab.rng.shuffle(moments)
  moments.sort(key='final evaluation'.__eq__)  # there is no way back from it
  workdir, started, saved = lab.folder('killed'), [], []
  flags = (_FINAL, _SHORT) if lab.is_short else (_FINAL,)
  for moment in moments:
    started.append(lab.start(workdir, *flags))
    saved.append(_kill(started[-1], workdir, moment, lab.rng))
  started.append(lab.start(workdir, *flags))
  started[-1].ends(0)
  try:
    runs.expect_same_end(workdir, lab.undisturbed(*flags))
    runs.expect_same_result(workdir, lab.undisturbed(*flags))
  except runs.FailedError as error:
    raise runs.FailedError(str(error), tried=len(moments)) from None
  for n, (moment, step) in enumerate(zip(moments, saved, strict=True), 1):
    # One that was killed while it started has not said where it went on.
    begins = (runs.first_step(run) for run in started[n:])
    begin = next(step for step in begins if step is not None)
    yield Survived(f'{moment}, after the save of step {step}',
                   lost=max(0, step - begin))


def _kill(
    run: Run, workdir: pathlib.Path, moment: str, rng: random.Random) -> int:
  """Kills the run; the newest step that was saved by then."""
  if moment == 'starting':
    time.sleep(rng.uniform(0, 8))
  elif moment == 'saving':
    before = set(runs.unfinished(workdir))
    run.until(lambda: set(runs.unfinished(workdir)) - before, 'a save')
    time.sleep(rng.uniform(0, 0.03))
  elif moment == 'any moment':
    before = runs.newest_step(workdir)
    run.until(lambda: runs.newest_step(workdir) > before, 'a save')
    time.sleep(rng.uniform(0, 0.3))
  else:
    run.until_said('final evaluation')
    time.sleep(rng.uniform(0, 2))
  runs.expect(run.is_running, 'the run ended before it was killed')
  run.signal(signal.SIGKILL)
  run.wait()
  return runs.newest_step(workdir)

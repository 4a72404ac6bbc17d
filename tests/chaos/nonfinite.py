"""Batches of which the loss is NaN."""

from collections.abc import Iterator
import json
import pathlib
import re

from tests.chaos import runs
from tests.chaos.runs import Lab
from tests.chaos.runs import Run
from tests.chaos.runs import Survived

_SHORTER = '--config.total_steps=100'
_PLACE = 50  # of the poisoned batch, which step 51 takes


def stop(lab: Lab) -> Iterator[Survived]:
  """The step, the examples, the last good checkpoint."""
  workdir = lab.folder('nan')
  line = _start(lab, workdir, _PLACE).refuses(
      f'in step {_PLACE + 1}', 'examples', 'the checkpoint of step 49 is kept')
  file = workdir / 'nonfinite' / f'step_{_PLACE + 1}.json'
  found = json.loads(file.read_text())['example_ids']
  runs.expect(found == _example_ids(_PLACE), 'these are other examples')
  yield Survived(line)


def rewind(lab: Lab) -> Iterator[Survived]:
  """As if those batches had never been in the run's order."""
  workdir = lab.folder('nan_rewind')
  places = _PLACE, _PLACE + 20
  run = _start(lab, workdir, *places, rewinds=3)
  run.ends(0)
  back = re.findall(r'going back to step (\d+)', run.text)
  runs.expect(len(back) == 2, f'it went back {len(back)} times')
  left_out = ','.join(map(str, places))
  runs.expect_same_end(workdir, lab.undisturbed(
      _SHORTER, env=(('CHAOS_LEAVE_OUT', left_out),)))
  for place, step in zip(places, back, strict=True):
    yield Survived(f'batch {place} left out, from step {step} on')


def too_often(lab: Lab) -> Iterator[Survived]:
  """More often than it may, it stops."""
  workdir = lab.folder('nan_often')
  places = _PLACE, _PLACE + 10, _PLACE + 20
  line = _start(lab, workdir, *places, rewinds=2).refuses(
      'NaN', 'after 2 rewinds')
  yield Survived(line)


def _start(
    lab: Lab, workdir: pathlib.Path, *places: int, rewinds: int = 0) -> Run:
  rewinding = [
      '--config.on_nonfinite=rewind', f'--config.max_rewinds={rewinds}']
  return lab.start(
      workdir, _SHORTER, *(rewinding if rewinds else ()),
      module='tests.chaos.afflicted',
      env={'CHAOS_NAN_PLACES': ','.join(map(str, places))})


def _example_ids(place: int) -> list[int]:
  """Of the run's batch there, by another way."""
  from byol_jax.data import randomness
  order = randomness.example_order(
      num_examples=256, batch_size=16, start_step=0, total_steps=place + 1,
      seed=0)
  return list(order.as_numpy_iterator())[place].tolist()

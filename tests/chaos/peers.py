"""One process of two is gone, frozen, or hangs; the launcher begins anew."""

from collections.abc import Iterator
import os
import pathlib
import re
import signal

from tests.chaos import runs
from tests.chaos.runs import Lab
from tests.chaos.runs import Run
from tests.chaos.runs import Survived

_PEER_SECS, _HANG_SECS = 8, 40
# For the verdict to be reached, said, and obeyed.
_SLACK_SECS = 12
_LIMITS = {
    'killed': _PEER_SECS, 'frozen': _PEER_SECS, 'hanging': _HANG_SECS,
    'hanging while saving': _HANG_SECS}
_FLAGS = '--config.total_steps=120', f'--peer_timeout_secs={_PEER_SECS}'
# Only where one hangs: on a busy machine others compile for as long.
_HANG_FLAG = f'--hang_timeout_secs={_HANG_SECS}'


def lost(lab: Lab) -> Iterator[Survived]:
  """One run, troubled eight times, each time begun again as a launcher does."""
  workdir, signs = lab.folder('lost'), lab.folder('signs')
  signs.mkdir()
  troubles = [(how, who) for how in _LIMITS for who in (1, 0)]
  done, saved, begun = [], [], []
  for how, who in troubles[:1] if lab.is_short else troubles:
    pair = lab.two_under_way(
        workdir, 5, *_FLAGS, *([_HANG_FLAG] if 'hanging' in how else ()),
        module='tests.chaos.afflicted', env={'CHAOS_HANG_WHERE': str(signs)})
    begun.append(runs.first_step(pair[0]))
    before = runs.newest_step(workdir)
    pair[0].until(lambda: runs.newest_step(workdir) > before,  # noqa: B023
                  'a save')
    secs = _trouble(pair, how, who, signs)
    saved.append(runs.newest_step(workdir))
    done.append(Survived(f'process {who} {how}', note=f'{secs:.1f} s'))
  pair = lab.two_under_way(workdir, 1, *_FLAGS)
  begun.append(runs.first_step(pair[0]))
  for run in pair:
    run.ends(0)
  runs.expect_same_end(workdir, lab.undisturbed(_FLAGS[0], processes=2))
  for survived, there, here in zip(done, saved, begun[1:], strict=True):
    survived.lost = max(0, there - here)
    yield survived


def _trouble(
    pair: list[Run], how: str, who: int, signs: pathlib.Path) -> float:
  """Causes it; the seconds until the other process has named it and left."""
  other = pair[1 - who]
  if 'hanging' in how:
    (signs / f'{who}{".saving" if "saving" in how else ""}').touch()
  else:
    pair[who].signal(signal.SIGKILL if how == 'killed' else signal.SIGSTOP)
  secs = other.ends(runs.RUN_AGAIN, _LIMITS[how] + _SLACK_SECS)
  pair[who].kill()
  runs.expect(re.search(rf'^error: process {who} \(', other.text, re.M),
              f'nobody named process {who}: {other.text[-300:]!r}')
  return secs


def launcher(lab: Lab) -> Iterator[Survived]:
  """launch/local_processes.sh starts all again."""
  workdir = lab.folder('launched')
  run = lab.start_command(
      ['bash', 'launch/local_processes.sh', '2', '--devices=2',
       'byol_jax.pretrain', *runs.ARGUMENTS, *_FLAGS,
       f'--workdir={workdir}'], workdir.name)
  run.until(lambda: runs.newest_step(workdir) >= 14, 'saves')
  pids = _both(workdir, [])
  saved = runs.newest_step(workdir)
  os.kill(pids[1], signal.SIGKILL)
  run.ends(0)
  for words in ('process 1 (pid ', 'was killed by signal 9',
                'starting all 2 again'):
    runs.expect(words in run.text, f'it does not say "{words}"')
  runs.expect_same_end(workdir, lab.undisturbed(_FLAGS[0], processes=2))
  yield Survived('process 1 killed under local_processes.sh',
                 lost=max(0, saved - runs.first_step(run)))


def _both(workdir: pathlib.Path, old: list[int]) -> list[int] | None:
  """The processes' ids, once there are new ones."""
  found = {}
  for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
    try:
      words = path.read_bytes().decode(errors='replace').split('\0')
    except OSError:
      continue
    if f'--workdir={workdir}' in words:
      for word in words:
        if word.startswith('--process_id='):
          found[int(word.partition('=')[2])] = int(path.parent.name)
  pids = [found.get(i, 0) for i in range(2)]
  return pids if all(pids) and not set(pids) & set(old) else None

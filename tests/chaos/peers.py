"""One process of two is gone, frozen, or hangs; the launcher begins anew."""

from collections.abc import Iterator
import os
import pathlib
import re
import signal
import time

from tests.chaos import runs
from tests.chaos.runs import Lab
from tests.chaos.runs import Run
from tests.chaos.runs import Survived

_PEER_SECS, _HANG_SECS, _LAUNCHER_GRACE_SECS = 8, 40, 16
# For the verdict to be reached, said, and obeyed.
_SLACK_SECS = 12
_LIMITS = {
    'killed': _PEER_SECS, 'frozen': _PEER_SECS, 'hanging': _HANG_SECS}
_STEPS = 80


def lost(lab: Lab) -> Iterator[Survived]:
  """One run under launch/local_processes.sh, troubled six times."""
  workdir, signs = lab.folder('lost'), lab.folder('signs')
  signs.mkdir()
  troubles = [(how, who) for how in _LIMITS for who in (1, 0)]
  if lab.is_short:
    troubles = troubles[:1]
  shorter = f'--config.total_steps={_STEPS}'
  launcher = lab.start_command(
      ['bash', 'launch/local_processes.sh', '2', '--devices=2',
       # More than troubles: processes may miss each other on a busy machine.
       f'--restarts={len(troubles) + 3}', f'--grace={_LAUNCHER_GRACE_SECS}',
       'tests.chaos.afflicted', *runs.ARGUMENTS, f'--workdir={workdir}',
       shorter, f'--peer_timeout_secs={_PEER_SECS}',
       f'--hang_timeout_secs={_HANG_SECS}'],
      workdir.name, {'CHAOS_HANG_WHERE': str(signs)})
  done, said, pids = [], 0, [0, 0]
  for how, who in troubles:
    launcher.until(lambda: _both(workdir, pids), 'both processes')  # noqa: B023
    pids = _both(workdir, pids)
    before = runs.newest_step(workdir)
    launcher.until(
        lambda: runs.newest_step(workdir) > before, 'a save')  # noqa: B023
    saved = runs.newest_step(workdir)
    secs = _trouble(launcher, how, who, pids, signs)
    said = _expect_named(launcher, who, pids[1 - who], said)
    done.append((how, who, saved, secs, said))
  launcher.ends(0)
  runs.expect_same_end(workdir, lab.undisturbed(shorter, processes=2))
  for how, who, saved, secs, said in done:
    again = re.search(
        r'^continuing .* at step (\d+)', launcher.text[said:], re.M)
    yield Survived(f'process {who} {how}', note=f'{secs:.1f} s',
                   lost=max(0, saved - int(again.group(1))))


def _trouble(
    launcher: Run, how: str, who: int, pids: list[int], signs: pathlib.Path,
) -> float:
  """Causes it; the seconds until the other process is gone."""
  begin = time.monotonic()
  if how == 'hanging':
    (signs / str(who)).touch()
  else:
    number = signal.SIGKILL if how == 'killed' else signal.SIGSTOP
    os.kill(pids[who], number)
  limit = _LIMITS[how] + _SLACK_SECS
  launcher.until(
      lambda: not _is_alive(pids[1 - who]),
      f'end of the other process, with process {who} {how}', limit)
  return time.monotonic() - begin


def _expect_named(launcher: Run, who: int, other: int, said: int) -> int:
  """The other one has named it, and left with 75; how much was said so far."""
  launcher.until(
      lambda: f'(pid {other}) left with code 75' in launcher.text,
      f'code 75 of process {1 - who}', 30, 0.1)
  text = launcher.text
  runs.expect(
      re.search(rf'error: process {who} \(', text[said:]),
      f'nobody named process {who}: {text[said:]!r}')
  return len(text)


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


def _is_alive(pid: int) -> bool:
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except OSError:
    return False
  return stat.rpartition(')')[2].split()[0] != 'Z'

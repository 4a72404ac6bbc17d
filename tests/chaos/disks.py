"""Disks: files that rot, space that ends, file systems that turn read-only."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging
import pathlib
import random
import shutil
import subprocess

from tests.chaos import runs
from tests.chaos.runs import Lab
from tests.chaos.runs import Run
from tests.chaos.runs import Survived

# Of a file, with luck, all that is damaged is what nothing reads.
_TRIES = 20


def damaged(lab: Lab) -> Iterator[Survived]:
  """Whole runs, which go on from the next older checkpoint and end the same."""
  damages = (_cut, _lose) if lab.is_short else (_cut, _flip, _lose)
  for damage in damages:
    workdir = lab.half(f'damaged{damage.__name__}')
    *_, older, newest = runs.steps_saved(workdir)
    what = _damage_where_it_matters(workdir, newest, damage, lab.rng)
    run = lab.start(workdir)
    run.ends(0)
    begin = runs.first_step(run)
    runs.expect(begin == older, f'{what}: went on at {begin}, not at {older}')
    for words in (f'/{newest} is cut short or damaged',
                  f'{newest - older} steps are lost'):
      runs.expect(words in run.text, f'{what}: it does not say "{words}"')
    runs.expect_same_end(workdir, lab.undisturbed())
    yield Survived(f'{what} of step {newest}',
                   note=f'{newest - older} steps made again')


def _damage_where_it_matters(
    workdir: pathlib.Path, step: int, damage: Callable[..., str],
    rng: random.Random) -> str:
  """The largest file, until it is found; what is not must do no harm.

  Raises:
    FailedError: another state is restored, or nothing is ever found.
  """
  path = max(_files(workdir / 'checkpoints' / str(step)),
             key=lambda path: path.stat().st_size)
  contents, truth = path.read_bytes(), _restore_quietly(workdir)
  for _ in range(_TRIES):
    what = damage(path, rng)
    found = _restore_quietly(workdir)
    if int(found['step']) != step:
      return what
    runs.expect(
        all(found[k].tobytes() == v.tobytes() for k, v in truth.items()),
        f'{what}: what was restored of step {step} is not what was saved')
    path.write_bytes(contents)
  raise runs.FailedError(f'{path.name}: {_TRIES} times nothing was found')


def damaged_files(lab: Lab) -> Iterator[Survived]:
  """Every kind of file: what is restored is what was saved, of some step.

  In this process, as it needs no run. A byte that nothing reads does no harm.
  """
  intact = lab.half('intact')
  *_, newest = runs.steps_saved(intact)
  truth = {}
  for step in runs.steps_saved(intact):
    single = lab.folder('single')
    shutil.copytree(intact / 'checkpoints' / str(step),
                    single / 'checkpoints' / str(step))
    truth[step] = runs.leaves(single)
  folder = intact / 'checkpoints' / str(newest)
  tries = [(flip, path) for path in _files(folder)
           for flip in (_flip,) * (1 if lab.is_short else 2)]
  if not lab.is_short:
    tries += [(d, path) for path in _files(folder) for d in (_cut, _lose)]
  harmless = 0
  for damage, path in tries:
    workdir = lab.folder('file')
    shutil.copytree(intact, workdir)
    what = damage(workdir / path.relative_to(intact), lab.rng)
    found = _restore_quietly(workdir)
    step = int(found['step'])
    runs.expect(
        all(found[k].tobytes() == v.tobytes() for k, v in truth[step].items()),
        f'{what}: what was restored of step {step} is not what was saved')
    harmless += step == newest
    shutil.rmtree(workdir)
  yield Survived('a file cut, lost, or with a bit flipped, all in turn',
                 note=f'{harmless} of {len(tries)} did no harm')
  yield from (Survived('') for _ in tries[1:])


def all_damaged(lab: Lab) -> Iterator[Survived]:
  """One clear line."""
  workdir = lab.half('all_damaged')
  for step in runs.steps_saved(workdir):
    files = _files(workdir / 'checkpoints' / str(step))
    largest = max(files, key=lambda path: path.stat().st_size)
    _cut(largest, lab.rng, at_most=0.5)
  line = lab.start(workdir).refuses('none of the checkpoints', 'delete')
  yield Survived(line)


def full(lab: Lab) -> Iterator[Survived]:
  """While saving and logging; there is space again later."""
  with _small_disk(lab) as disk:
    workdir = disk / 'run'
    run = lab.start(workdir)
    run.until(lambda: runs.newest_step(workdir) >= 35, 'saves')
    run.until(lambda: runs.unfinished(workdir), 'a save')
    with run.frozen():
      _fill(disk)
      good = runs.newest_step(workdir)
    run.until_said('metrics.jsonl cannot be written')
    _until_failed_saves(run, 3)
    with run.frozen():
      kept = int(_restore_quietly(workdir)['step'])
      runs.expect(kept >= good, f'step {good} was saved, {kept} is restored')
      shown = runs.last_row(workdir)
      _make_room(disk)
    run.ends(0)
    runs.expect_same_end(workdir, lab.undisturbed())
    for words in ('metrics.jsonl can be written again',
                  f'the checkpoint of step {kept} is kept'):
      runs.expect(words in run.text, f'it does not say "{words}"')
    yield Survived(
        f'{run.text.count("saving step")} saves failed, and rows of steps '
        f'after {shown} came later', note=f'step {kept} stayed restorable')


def full_for_two(lab: Lab) -> Iterator[Survived]:
  """Of two processes that save together."""
  with _small_disk(lab) as disk:
    workdir = disk / 'run'
    pair = lab.two_under_way(workdir, 20, '--config.checkpoint_every_steps=30')
    with pair[0].frozen(), pair[1].frozen():
      _fill(disk)
    _until_failed_saves(pair[0], 2)
    with pair[0].frozen(), pair[1].frozen():
      _make_room(disk)
    for run in pair:
      run.ends(0)
    runs.expect_same_end(workdir, lab.undisturbed(processes=2))
    yield Survived(f'{pair[0].text.count("saving step")} saves failed')


def full_at_the_end(lab: Lab) -> Iterator[Survived]:
  """The only save there is, and it does not fit; later it does."""
  with _small_disk(lab) as disk:
    workdir = disk / 'run'
    run = lab.start(workdir, '--config.checkpoint_every_steps=1000')
    run.until(lambda: runs.last_row(workdir) >= 200, 'rows')
    with run.frozen():
      _fill(disk)
    run.until_said('trying again in')
    _make_room(disk)
    secs = run.ends(0)
    runs.expect_same_end(workdir, lab.undisturbed())
    yield Survived('saved when there was room', note=f'{secs:.0f} s later')


def full_log(lab: Lab) -> Iterator[Survived]:
  """What the run says has no room; what it writes has."""
  with _small_disk(lab) as disk:
    workdir, log = lab.folder('full_log'), disk / 'log'
    run = lab.start_command(lab.command(workdir), 'full_log', log=log)
    run.until(lambda: runs.last_row(workdir) >= 35, 'rows')
    with run.frozen():
      before = runs.last_row(workdir)
      _fill(disk)
      _fill(disk, log.name)  # its last block
    run.until(lambda: runs.last_row(workdir) >= before + 100, 'more rows')
    with run.frozen():
      silent = runs.last_row(workdir)
      for step in range(before + 5, silent - 5):
        runs.expect(f'step {step}/' not in run.text, f'it says step {step}')
      _make_room(disk)
    run.ends(0)
    runs.expect_same_end(workdir, lab.undisturbed())
    runs.expect(f'step {runs.TOTAL_STEPS}/' in run.text, 'it stays silent')
    yield Survived(f'what it said of steps {before} to {silent} is not kept')


def turns_read_only(lab: Lab) -> Iterator[Survived]:
  """The checkpoints' folder in mid-run, and back."""
  workdir = lab.folder('turns_read_only')
  run = lab.start(workdir)
  run.until(lambda: runs.newest_step(workdir) >= 35, 'saves')
  folder = str(workdir / 'checkpoints')
  with run.frozen():
    _mount('--bind', folder, folder)
    try:
      _mount('-o', 'remount,bind,ro', folder)
    except runs.NotTriedError:
      _unmount(folder)
      raise
  try:
    _until_failed_saves(run, 2)
  finally:
    with run.frozen():
      _unmount(folder)
  run.ends(0)
  runs.expect('Read-only file system' in run.text, 'it does not say why')
  runs.expect_same_end(workdir, lab.undisturbed())
  yield Survived(f'{run.text.count("saving step")} saves failed')


def read_only(lab: Lab) -> Iterator[Survived]:
  """From the start; for root, only a mount is that."""
  with _small_disk(lab, '-o', 'ro') as disk:
    line = lab.start(disk / 'run').refuses('cannot be written', 'Read-only')
  yield Survived(line)


def _until_failed_saves(run: Run, count: int) -> None:
  run.until(
      lambda: run.text.count('saving step') >= count, f'{count} failed saves',
      poll_secs=0.05)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.rglob('*') if path.is_file())


def _cut(
    path: pathlib.Path, rng: random.Random, at_most: float = 1.0) -> str:
  """Leaves less than the share `at_most`; nothing may read what is last."""
  data = path.read_bytes()
  size = rng.randrange(max(int(len(data) * at_most), 1))
  path.write_bytes(data[:size])
  return f'{path.name} cut to {size} of {len(data)} bytes'


def _flip(path: pathlib.Path, rng: random.Random) -> str:
  data = bytearray(path.read_bytes())
  place = rng.randrange(len(data))
  data[place] ^= 1 << rng.randrange(8)
  path.write_bytes(data)
  return f'{path.name} with a bit flipped in byte {place}'


def _lose(path: pathlib.Path, _: random.Random) -> str:
  path.unlink()
  return f'{path.name} lost'


def _restore_quietly(workdir: pathlib.Path) -> dict:
  """Saying nothing of what is damaged."""
  logging.disable(logging.ERROR)
  try:
    return runs.leaves(workdir)
  finally:
    logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _small_disk(lab: Lab, *options: str) -> Iterator[pathlib.Path]:
  """A file system in memory, of 16 MiB."""
  disk = lab.folder('disk')
  disk.mkdir()
  _mount('-t', 'tmpfs', *(options or ('-o', 'size=16m')), 'chaos', str(disk))
  try:
    yield disk
  finally:
    lab.end()
    _unmount(str(disk))


def _mount(*arguments: str) -> None:
  found = subprocess.run(
      ['mount', *arguments], capture_output=True, text=True, check=False)
  if found.returncode:
    raise runs.NotTriedError(
        f'mounting needs root, or unshare: {found.stderr.strip()}')


def _unmount(folder: str) -> None:
  subprocess.run(['umount', '--lazy', folder], check=True)


def _fill(disk: pathlib.Path, name: str = 'ballast') -> None:
  """To the last byte, by this file."""
  with (disk / name).open('ab', buffering=0) as file:
    for size in (2**16, 1):
      with contextlib.suppress(OSError):
        while file.write(bytes(size)):
          pass


def _make_room(disk: pathlib.Path) -> None:
  (disk / 'ballast').unlink()

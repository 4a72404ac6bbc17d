"""Images that rot while they are read, and those that mean harm."""

from collections.abc import Iterator
import pathlib
import random
import re
import struct
import zlib

import numpy as np

from tests.chaos import runs
from tests.chaos.runs import Lab
from tests.chaos.runs import Run
from tests.chaos.runs import Survived

_COUNT = 96
_BOMB_SIDE = 30_000  # pixels; 2.7 GB, were it decoded
_STEPS = 120


def rot(lab: Lab) -> Iterator[Survived]:
  """Files are cut and deleted while the run trains."""
  folder, workdir = _make_images(lab), lab.folder('rot')
  run = lab.start(workdir, *_data(folder))
  run.until(lambda: runs.last_row(workdir) >= 20, 'rows')
  with run.frozen():
    gone = _let_rot(folder, lab.rng)
  run.ends(0)
  _expect_named(run.text, gone)
  _expect_counted(workdir, len(gone))
  yield Survived(f'{len(gone)} of {_COUNT} files cut or deleted; all named')


def rot_for_two(lab: Lab) -> Iterator[Survived]:
  """The same, of which each process meets some: their steps stay in step."""
  folder, workdir = _make_images(lab), lab.folder('rot_two')
  pair = lab.two_under_way(workdir, 20, *_data(folder))
  with pair[0].frozen(), pair[1].frozen():
    gone = _let_rot(folder, lab.rng)
  for run in pair:
    run.ends(0)
  _expect_named(pair[0].text + pair[1].text, gone)
  newest = runs.newest_step(workdir)
  runs.expect(newest == _STEPS, f'ended at step {newest}')
  _expect_counted(workdir, len(gone))
  yield Survived(
      f'{len(gone)} of {_COUNT} files, each counted once; both made all '
      f'{_STEPS} steps')


def bomb(lab: Lab) -> Iterator[Survived]:
  """Refused when the folder is examined, and when it comes later."""
  peaks = []
  for when in (None, 'from the start', 'while the run trains'):
    folder, workdir = _make_images(lab), lab.folder('bomb')
    place = folder / 'image_07.png'
    if when == 'from the start':
      place.write_bytes(_make_bomb())
    run = lab.start(workdir, *_data(folder))
    run.until(lambda: runs.last_row(workdir) >= 20, 'rows')  # noqa: B023
    if when == 'while the run trains':
      with run.frozen():
        place.write_bytes(_make_bomb())
    peak = 0
    while run.is_running:
      peak = max(peak, _peak_bytes(run))
    run.ends(0)
    peaks.append(peak)
    if when:
      runs.expect(place.name in run.text, f'{when}: it is not named')
      more = (peak - peaks[0]) / 2**20
      runs.expect(more < 256, f'{when}: {more:.0f} MiB more')
      yield Survived(when, note=f'{more:+.0f} MiB at the peak')


def hostile(lab: Lab) -> Iterator[Survived]:
  """Links that lead out, a loop of links, names that are no words."""
  folder, workdir = _make_images(lab), lab.folder('hostile')
  outside = _make_images(lab)
  (folder / 'link.png').symlink_to(outside / 'image_00.png')
  (folder / 'system.png').symlink_to('/etc/passwd')
  (folder / 'elsewhere').symlink_to(outside)
  (folder / 'loop').symlink_to(folder)
  (folder / 'dangling.png').symlink_to(folder / 'nowhere.png')
  name = 'a\n; $(reboot) %s \u202e"\'.png'
  (folder / name).write_bytes((folder / 'image_00.png').read_bytes())
  run = lab.start(workdir, *_data(folder))
  run.ends(0)
  words = f'{_COUNT + 1} images'
  runs.expect(words in run.text, f'it does not say {words!r}')
  runs.expect('passwd' not in run.text, 'a link out was followed')
  yield Survived('links out of the folder passed over, 1 odd name read')


def _data(folder: pathlib.Path) -> list[str]:
  return [
      f'--config.data=folder:{folder}', '--config.test_split=',
      '--config.max_bad_image_share=0.2', '--config.cache_bytes=0',
      '--config.final_protocols=()', f'--config.total_steps={_STEPS}']


def _make_images(lab: Lab) -> pathlib.Path:
  """Of many sizes, so that they are not all held in memory."""
  from PIL import Image
  folder = lab.folder('images')
  folder.mkdir()
  rng = np.random.default_rng(0)
  for n in range(_COUNT):
    size = 24 + n % 7, 24 + n % 5, 3
    Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(
        folder / f'image_{n:02}.png')
  return folder


def _let_rot(folder: pathlib.Path, rng: random.Random) -> list[str]:
  """Cuts four files, deletes four; their names."""
  chosen = rng.sample(sorted(folder.glob('*.png')), 8)
  for path in chosen[:4]:
    path.unlink()
  for path in chosen[4:]:
    path.write_bytes(path.read_bytes()[:50])
  return [path.name for path in chosen]


def _expect_named(text: str, names: list[str]) -> None:
  missing = [n for n in names if not re.search(
      rf'{n} (is not there|cannot be|is empty)', text)]
  runs.expect(not missing, f'not named: {missing}')


def _expect_counted(workdir: pathlib.Path, count: int) -> None:
  counts = [row.get('data/unreadable_images', 0) for row in runs.rows(workdir)]
  runs.expect(max(counts) == count, f'{max(counts)} counted, not {count}')


def _peak_bytes(run: Run) -> int:
  try:
    status = pathlib.Path(f'/proc/{run.pid}/status').read_text()
  except OSError:
    return 0
  found = re.search(r'VmHWM:\s+(\d+) kB', status)
  return int(found.group(1)) * 1024 if found else 0


def _make_bomb() -> bytes:
  """A PNG of one bit a pixel; a few hundred kilobytes."""
  row = bytes(1 + _BOMB_SIDE // 8)
  packer = zlib.compressobj(9)
  pixels = b''.join(packer.compress(row) for _ in range(_BOMB_SIDE))
  header = struct.pack('>IIBBBBB', _BOMB_SIDE, _BOMB_SIDE, 1, 0, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + b''.join((
      _chunk(b'IHDR', header), _chunk(b'IDAT', pixels + packer.flush()),
      _chunk(b'IEND', b'')))


def _chunk(kind: bytes, data: bytes) -> bytes:
  return struct.pack('>I', len(data)) + kind + data + struct.pack(
      '>I', zlib.crc32(kind + data))

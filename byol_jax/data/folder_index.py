"""Which files of a folder are good images, found once and remembered."""

from collections.abc import Iterator
import concurrent.futures
import itertools
import json
import os
import pathlib
import time
from typing import NamedTuple
import warnings

from absl import logging
from PIL import Image
from PIL import UnidentifiedImageError

from byol_jax import peers
from byol_jax.data import cache
from byol_jax.data import photo

# Files by other names (texts, annotations, archives) are passed over.
SUFFIXES = frozenset((
    '.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm',
    '.pgm'))
_THREADS = min(max(16, os.cpu_count() or 1), 64)
# Files that wait for a thread, of perhaps millions.
_AT_ONCE = 4096
# Raised when `photo` judges files otherwise, so that old verdicts are dropped.
_VERSION = 3
_PROGRESS_SECS = 10.0
# What was found is kept that often, for whoever is stopped meanwhile.
_KEEP_SECS = 60.0


class ImageFile(NamedTuple):
  """One file: where, as it was when it was examined, and what it is."""
  name: str  # path from the folder, with '/'
  num_bytes: int
  modified_ns: int
  height: int = 0
  width: int = 0
  plain: bool = False  # see `photo.Photo`
  problem: str = ''  # why it is bad, in a few words

  @property
  def state(self) -> tuple[str, int, int]:
    return self.name, self.num_bytes, self.modified_ns


class Examined(NamedTuple):
  """The image files of a folder, sorted by name."""
  good: list[ImageFile]
  bad: list[ImageFile]


def is_image_name(name: str) -> bool:
  """Whether a file's name says that it is an image."""
  return os.path.splitext(name)[1].lower() in SUFFIXES


def leads_out(root: str | os.PathLike[str], path: str) -> bool:
  """Whether a path, once links and `..` are followed, is not under `root`."""
  real_root = os.path.realpath(root)
  return os.path.commonpath([real_root, os.path.realpath(path)]) != real_root


def printable(name: str) -> str:
  """A file's name on one line, whatever bytes it is made of."""
  return ''.join(
      c if c.isprintable() else c.encode('unicode_escape').decode()
      for c in name)


def holds_images(folder: pathlib.Path) -> bool:
  """Whether there is an image file in a folder, however deep."""
  return any(is_image_name(name)
             for _, _, names in os.walk(folder) for name in names)


def examine_folder(root: pathlib.Path, max_pixels: int) -> Examined:
  """Decodes every image file of a folder that is not known yet.

  Args:
    root: an existing folder.
    max_pixels: of an image; a larger one is bad, and not decoded.

  Returns:
    Its image files, however deep, without hidden ones and without links that
    lead out of the folder.
  """
  remembered = cache.cached_file(
      'folder', (_VERSION, os.path.realpath(root), max_pixels), '.json')
  known = _load(remembered)
  files = list(_image_files(root))
  new = [file for file in files if file.state not in known]
  if new:
    known = {file.state: known[file.state] for file in files
             if file.state in known}
    kept = time.monotonic()
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # broken metadata is no matter
      for file in _examine_all(root, new, max_pixels):
        known[file.state] = file
        if time.monotonic() - kept > _KEEP_SECS:
          _keep(remembered, known)
          kept = time.monotonic()
    _keep(remembered, known)
  examined = [known[file.state] for file in files]
  return Examined(good=[file for file in examined if not file.problem],
                  bad=[file for file in examined if file.problem])


def readable_paths(
    root: pathlib.Path, files: list[ImageFile], max_pixels: int) -> list[str]:
  """Paths of files as TensorFlow reads them like a viewer.

  Of a file that needs Pillow (turned by its EXIF, CMYK, 16 bits, transparent,
  a PNG with its tail cut, in another format), a PNG of its pixels is kept in
  the cache folder.

  Args:
    root: the folder.
    files: good ones.
    max_pixels: that they were examined with.

  Returns:
    A path for each.
  """
  paths = [os.path.join(root, file.name) for file in files]
  copies = {
      path: cache.cached_file(
          'image', (os.path.realpath(path), file.state), '.png')
      for path, file in zip(paths, files, strict=True) if not file.plain}
  missing = sum(not copy.exists() for copy in copies.values())
  if missing:
    logging.info('Keeping %d unusual images of %s as PNGs in %s.', missing,
                 root, cache.folder())
  cache.write_missing(
      copies, lambda path: photo.read_as_png(path, max_pixels))
  return [str(copies.get(path, path)) for path in paths]


def write_bad_list(root: pathlib.Path, bad: list[ImageFile]) -> pathlib.Path:
  """Writes the bad files' names and problems, a line each; says where."""
  path = cache.cached_file('bad', os.path.realpath(root), '.txt')
  lines = [f'{printable(str(root / file.name))}\t{file.problem}\n'
           for file in bad]
  cache.remember(path, ''.join(lines).encode())
  return path


def _image_files(root: pathlib.Path) -> Iterator[ImageFile]:
  """Image files by name, in an order that every machine agrees on."""
  found = []
  for parent, folders, names in os.walk(root):  # no linked folders
    folders[:] = [f for f in folders if not f.startswith('.')]
    inside = pathlib.PurePath(os.path.relpath(parent, root)).as_posix()
    prefix = '' if inside == '.' else f'{inside}/'
    for name in names:
      path = os.path.join(parent, name)
      if name.startswith('.') or not is_image_name(name):
        continue
      if os.path.islink(path) and leads_out(root, path):
        continue
      if os.path.isfile(path):  # no pipe or device, which might never end
        found.append(prefix + name)
  for name in sorted(found):
    status = os.stat(os.path.join(root, name))
    yield ImageFile(name, status.st_size, status.st_mtime_ns)


def _examine_all(
    root: pathlib.Path, files: list[ImageFile], max_pixels: int,
) -> Iterator[ImageFile]:
  """Decodes files in threads (Pillow leaves the interpreter while it does)."""
  logging.info('Checking %d image files in %s, once.', len(files), root)
  said = time.monotonic()
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    examined = itertools.chain.from_iterable(
        pool.map(lambda file: _examine(root, file, max_pixels),
                 files[i:i + _AT_ONCE])
        for i in range(0, len(files), _AT_ONCE))
    for count, file in enumerate(examined, 1):
      yield file
      if time.monotonic() - said > _PROGRESS_SECS:
        said = time.monotonic()
        logging.info('Checked %d of %d image files.', count, len(files))
        peers.advance(f'checking image file {count}', 0)  # others may wait


def _examine(
    root: pathlib.Path, file: ImageFile, max_pixels: int) -> ImageFile:
  if not file.num_bytes:
    return file._replace(problem='empty')
  try:
    found = photo.examine(str(root / file.name), max_pixels)
  except UnidentifiedImageError:
    return file._replace(problem='not an image')
  except (photo.TooLargeError, Image.DecompressionBombError):
    return file._replace(problem='implausibly large')
  except Exception as error:  # pylint: disable=broad-except
    # Pillow's decoders raise whatever they like on damaged files.
    truncated = 'truncated' in str(error)
    return file._replace(
        problem='truncated' if truncated else 'cannot be decoded')
  return file._replace(
      height=found.height, width=found.width, plain=found.plain)


def _keep(
    path: pathlib.Path, known: dict[tuple[str, int, int], ImageFile]) -> None:
  cache.remember(path, json.dumps(list(known.values())).encode())


def _load(path: pathlib.Path) -> dict[tuple[str, int, int], ImageFile]:
  try:
    files = [ImageFile(*fields) for fields in json.loads(path.read_text())]
  except (OSError, ValueError, TypeError):
    return {}
  return {file.state: file for file in files}

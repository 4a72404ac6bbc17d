"""What is found out once about a dataset, kept in the user's cache folder."""

from collections.abc import Callable
from collections.abc import Mapping
import concurrent.futures
import hashlib
import os
import pathlib
import tempfile

from absl import logging

_THREADS = 16


def cached_file(kind: str, key: object, suffix: str) -> pathlib.Path:
  """A path in the cache folder for one kind of knowledge about one thing.

  The folder is $XDG_CACHE_HOME/byol_jax, or ~/.cache/byol_jax, or, where
  neither can be written, one among the temporary files.

  Args:
    kind: first part of the file's name.
    key: what it is about; its `repr` says it fully.
    suffix: last part of the file's name, with its dot.
  """
  digest = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
  return folder() / f'{kind}-{digest}{suffix}'


def write(path: pathlib.Path, contents: bytes) -> None:
  """Writes a file at once, so that no other process sees half of it."""
  descriptor, temporary = tempfile.mkstemp(dir=path.parent)
  try:
    with os.fdopen(descriptor, 'wb') as file:
      file.write(contents)
    os.replace(temporary, path)
  except BaseException:
    pathlib.Path(temporary).unlink(missing_ok=True)
    raise


def remember(path: pathlib.Path, contents: bytes) -> None:
  """`write` for what can be found out again: without it is only slower."""
  try:
    write(path, contents)
  except OSError as error:
    logging.warning(
        '%s cannot be written (%s): what was found out is not kept.', path,
        error.strerror)


def write_missing(
    copies: Mapping[str, pathlib.Path], convert: Callable[[str], bytes]
) -> None:
  """Writes, in threads, the copies that are not there yet.

  Args:
    copies: where that of each file belongs.
    convert: maps a file's path to its copy's contents.
  """
  missing = {path: copy for path, copy in copies.items() if not copy.exists()}
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    # Each thread writes what it made, so no more than that is held.
    list(pool.map(lambda path: write(missing[path], convert(path)), missing))


def folder() -> pathlib.Path:
  """The cache folder, made if need be."""
  base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  shared = tempfile.gettempdir()  # where another user may plant what we read
  for path in (pathlib.Path(base, 'byol_jax'),
               pathlib.Path(shared, f'byol_jax-{os.getuid()}')):
    try:
      path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
      continue
    if os.access(path, os.W_OK) and path.stat().st_uid == os.getuid():
      return path
  raise OSError(f'neither {base} nor {tempfile.gettempdir()} can be written')

"""Compiled programs, kept for the next start: of the same job or another.

    --compilation_cache=DIR    also gs://BUCKET/DIR; empty: nothing is kept

Without the flag it is JAX_COMPILATION_CACHE_DIR, if that is set, and else the
user's cache folder. Not the workdir: what is loaded from here is run, and
workdirs are files that come from elsewhere and go elsewhere.

JAX takes a program from here only if it would make the very same one: its key
holds the program, the devices, the flags and the versions. It lacks the host's
processor, so each kind of those has a folder of its own. The input pipelines'
programs are kept there too, by `data/program_cache`; not in a bucket, and not
where JAX_COMPILATION_CACHE_DIR says.
"""

import contextlib
import hashlib
import pathlib
import platform
import warnings

from absl import flags
from absl import logging

from byol_jax import failures

_DIRECTORY = flags.DEFINE_string(
    'compilation_cache', None,
    'Where compiled programs are kept for the next start; nothing after the '
    'equals sign: nowhere. The default is $JAX_COMPILATION_CACHE_DIR or, '
    'without it, the user\'s cache folder. On several hosts, name one that all '
    'of them reach.')

# Of all that is kept in a folder, the least recently used go first. JAX would
# do that itself, but one unfinished entry then stops it from writing any.
_MAX_BYTES = 2 * 2**30
_MARK = 'checked'


def use() -> None:
  """Has JAX keep what it compiles; to be called before it compiles.

  What cannot be read or written costs time, and never the job.
  """
  import jax

  from byol_jax.data import cache
  from byol_jax.data import program_cache
  path = _DIRECTORY.value
  if path == '':
    jax.config.update('jax_enable_compilation_cache', False)
    return
  if path is None and jax.config.jax_compilation_cache_dir:
    return  # the user's own, with settings of the user's own
  # JAX would say so for every program.
  warnings.filterwarnings(
      'ignore', 'Error (reading|writing) persistent compilation cache')
  if path and '://' in path:
    # JAX's own threshold stays: what compiles in a moment is not worth asking
    # a bucket for.
    jax.config.update('jax_compilation_cache_dir', f'{path}/{_processor()}')
    return
  try:
    root = pathlib.Path(path).expanduser().absolute() if path else (
        cache.folder() / 'compiled')
    folder = root / _processor()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not jax.process_index():  # the one that writes
      _tidy(root, folder)
  except OSError as error:
    logging.warning(
        'note: what is compiled is not kept, %s cannot be written (%s)',
        f'--compilation_cache={path}' if path else 'the cache folder',
        failures.reason(error))
    jax.config.update('jax_enable_compilation_cache', False)
    return
  jax.config.update('jax_compilation_cache_dir', str(folder))
  # A start compiles dozens of small programs beside the large one.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  program_cache.use(folder)


def _processor() -> str:
  """A name for the kind of this machine's processor."""
  said = {platform.machine(), platform.processor()}
  with contextlib.suppress(OSError):
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    said |= {line for line in lines if line.partition('\t')[0].strip() in (
        'model name', 'flags', 'Features', 'CPU part')}
  return hashlib.sha256(repr(sorted(said)).encode()).hexdigest()[:16]


def _tidy(root: pathlib.Path, folder: pathlib.Path) -> None:
  """Removes what is not whole, and then the oldest until the rest fits.

  JAX writes in place: a full disk or a kill leaves a piece that it would find
  wanting at every start, and never replace.

  Args:
    root: of all kinds of processors.
    folder: of this one's.

  Raises:
    OSError: nothing can be written there.
  """
  mark = folder / _MARK
  last_check = mark.stat().st_mtime if mark.exists() else 0.0
  # Ahead of the look, so that what is written meanwhile is looked at next.
  mark.touch()
  found = []
  for entry in root.rglob('*-cache'):  # also TensorFlow's, in folders of theirs
    with contextlib.suppress(FileNotFoundError):  # by another job's tidying
      status = entry.stat()
      is_new = entry.parent == folder and status.st_mtime >= last_check
      if is_new and not _is_whole(entry):
        entry.unlink()
        continue
      used = max(status.st_atime, status.st_mtime)
      found.append((used, status.st_size, entry))
  num_bytes = sum(size for _, size, _ in found)
  for _, size, entry in sorted(found):
    if num_bytes <= _MAX_BYTES:
      break
    entry.unlink(missing_ok=True)
    num_bytes -= size


def _is_whole(entry: pathlib.Path) -> bool:
  """Whether it can be unpacked, which its checksum has a say in."""
  from jax._src import compilation_cache  # by what JAX has packed it with
  try:
    compilation_cache.decompress_executable(entry.read_bytes())
  except FileNotFoundError:
    raise
  except Exception:  # of whichever packer
    return False
  return True

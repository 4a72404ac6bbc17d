"""Compiled parts of pipelines, kept for the next start.

TensorFlow can keep them in a folder itself, but a full disk there, or a file
that is not whole, ends the program that comes upon it. So it is given a folder
in memory (`quiet_tensorflow.PROGRAMS`): as a job begins, what is kept on the
disk is copied there; once its first step is done, and as it ends by itself,
what is new goes the other way. Whatever goes wrong with the disk costs time,
and never the job.

TensorFlow takes a program only if it would make the very same one. Part of that
is a number of functions made before: the first resumed run, say, finds little
of what a run from the start has left, and the second one all.
"""

import atexit
import contextlib
import hashlib
import pathlib

from byol_jax import quiet_tensorflow
from byol_jax.data import cache
from byol_jax.quiet_tensorflow import tf

_SUFFIX = '-cache'  # as JAX's
_DIGEST_BYTES = hashlib.sha256().digest_size
# A pipeline's take two or three; all are copied at every start.
_MAX_BYTES = 32 * 2**20

_ERRORS = (OSError, tf.errors.OpError)

_folder: pathlib.Path | None = None


def use(folder: pathlib.Path) -> None:
  """Has pipelines compile nothing that `folder` holds, and keeps the rest.

  To be called before any is made. What is not whole is removed, and what is
  older than the youngest 32 MiB.

  Args:
    folder: of this processor's kind alone; each TensorFlow has its own in it.
  """
  global _folder
  mine = folder / f'tensorflow-{tf.__version__}'
  try:
    mine.mkdir(mode=0o700, parents=True, exist_ok=True)
    entries = sorted(mine.glob(f'*{_SUFFIX}'), key=_modified, reverse=True)
  except OSError:
    return
  num_bytes = 0
  for entry in entries:
    with contextlib.suppress(*_ERRORS):  # it may be gone, or someone else's
      num_bytes += _load(entry, _MAX_BYTES - num_bytes)
  _folder = mine
  atexit.register(save)


def save() -> None:
  """Keeps what has been compiled; does nothing unless `use` was called."""
  if _folder is None or not tf.io.gfile.exists(quiet_tensorflow.PROGRAMS):
    return
  for name in tf.io.gfile.listdir(quiet_tensorflow.PROGRAMS):
    if name.endswith('.pb'):  # others are half written
      with contextlib.suppress(*_ERRORS):
        _keep(_folder / f'{name}{_SUFFIX}')


def _load(entry: pathlib.Path, max_bytes: int) -> int:
  """Copies one into memory, or removes it; its bytes."""
  contents = entry.read_bytes()
  program = contents[_DIGEST_BYTES:]
  if len(contents) > max_bytes or contents != _sealed(program):
    entry.unlink()
  else:
    with tf.io.gfile.GFile(_in_memory(entry), 'wb') as file:
      file.write(program)
  return len(contents)


def _keep(entry: pathlib.Path) -> None:
  """Copies one to the disk."""
  if entry.exists():
    return
  with tf.io.gfile.GFile(_in_memory(entry), 'rb') as file:
    cache.write(entry, _sealed(file.read()))


def _modified(entry: pathlib.Path) -> float:
  try:
    return entry.stat().st_mtime
  except OSError:
    return 0.0


def _in_memory(entry: pathlib.Path) -> str:
  return f'{quiet_tensorflow.PROGRAMS}/{entry.name.removesuffix(_SUFFIX)}'


def _sealed(program: bytes) -> bytes:
  return hashlib.sha256(program).digest() + program

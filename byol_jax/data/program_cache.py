"""Compiled parts of pipelines, kept for the next start of any job.

TensorFlow can keep them in a folder itself, but a full disk there, or a file
that is not whole, ends the program that comes upon it. So it is given a folder
in memory (`quiet_tensorflow.PROGRAMS`): as a job begins, what is kept on the
disk is copied there, and what is new goes the other way once there is something
to keep.

TensorFlow takes a program only if it would make the very same one. Part of that
is a number of functions made before: the first resumed run, say, finds little
of what a run from the start has left, and the second one all.
"""

import atexit
import contextlib
import hashlib
import pathlib

from byol_jax import quiet_tensorflow
from byol_jax.quiet_tensorflow import tf

_SUFFIX = '-cache'  # as JAX's
_DIGEST_BYTES = hashlib.sha256().digest_size
# A pipeline's take two or three; all are copied at every start.
_MAX_BYTES = 32 * 2**20

_folder: pathlib.Path | None = None


def use(folder: pathlib.Path) -> None:
  """Has pipelines compile nothing that `folder` holds, and keeps the rest.

  To be called before any is made. What is not whole is removed, and what is
  oldest, so that 32 MiB are left.

  Args:
    folder: of this processor's kind alone; each TensorFlow has its own in it.

  Raises:
    OSError: it cannot be written.
  """
  global _folder
  _folder = folder / f'tensorflow-{tf.__version__}'
  _folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  num_bytes = 0
  for entry in sorted(_folder.glob(f'*{_SUFFIX}'), key=_age):
    with contextlib.suppress(FileNotFoundError):  # by another job
      contents = entry.read_bytes()
      program = contents[_DIGEST_BYTES:]
      num_bytes += len(contents)
      if num_bytes > _MAX_BYTES or contents != _sealed(program):
        entry.unlink()
        continue
      with tf.io.gfile.GFile(_in_memory(entry), 'wb') as file:
        file.write(program)
  atexit.register(save)


def save() -> None:
  """Keeps what has been compiled; does nothing unless `use` was called.

  What cannot be written is compiled again.
  """
  if _folder is None or not tf.io.gfile.exists(quiet_tensorflow.PROGRAMS):
    return
  for name in tf.io.gfile.listdir(quiet_tensorflow.PROGRAMS):
    entry = _folder / f'{name}{_SUFFIX}'
    if not name.endswith('.pb') or entry.exists():  # others are half written
      continue
    with tf.io.gfile.GFile(_in_memory(entry), 'rb') as file:
      contents = _sealed(file.read())
    # In place: a half of it is none, by its digest.
    with contextlib.suppress(OSError), entry.open('xb') as file:
      file.write(contents)


def _age(entry: pathlib.Path) -> float:
  """Seconds, from the youngest's, which is the least."""
  try:
    return -entry.stat().st_mtime
  except FileNotFoundError:
    return 0.0


def _in_memory(entry: pathlib.Path) -> str:
  return f'{quiet_tensorflow.PROGRAMS}/{entry.name.removesuffix(_SUFFIX)}'


def _sealed(program: bytes) -> bytes:
  return hashlib.sha256(program).digest() + program

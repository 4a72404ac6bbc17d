"""Paths of any file system that TensorFlow knows: gs://, ram://, local ones.

There is no path handling of our own beside this: `tf.io.gfile` lists, reads and
writes.
"""

import os

import tensorflow as tf

from byol_jax.config import ConfigError

# What reading or writing may raise, whatever the file system.
FILE_ERRORS = (OSError, tf.errors.OpError)

_MAX_ERROR_LENGTH = 200


def is_remote(path: str) -> bool:
  """Whether a path names its file system, as gs://bucket/folder does."""
  return '://' in path


def check_scheme(path: str, what: str) -> None:
  """Raises ConfigError where TensorFlow does not know the file system.

  Args:
    path: local or not.
    what: to begin the message with.
  """
  if not is_remote(path):
    return
  scheme = path.partition('://')[0]
  known = sorted(filter(None, map(str, tf.io.gfile.get_registered_schemes())))
  if scheme not in known:
    raise ConfigError(
        f'{what}: this TensorFlow knows no {scheme}://; it knows '
        f'{", ".join(name + "://" for name in known)} '
        '(tensorflow-io adds s3:// and more)')


def state(path: str) -> tuple[int, int]:
  """A file's size in bytes, and when it was modified, in nanoseconds."""
  if is_remote(path):
    status = tf.io.gfile.stat(path)
    return status.length, status.mtime_nsec
  status = os.stat(path)  # TensorFlow rounds to seconds
  return status.st_size, status.st_mtime_ns


def write_whole(path: str, contents: bytes) -> None:
  """Writes or replaces a file; whenever the job ends, it is old or new.

  Only one job at a time may write it.

  Raises:
    tf.errors.OpError: it cannot be written.
  """
  folder, name = os.path.split(path)
  unfinished = os.path.join(folder, f'.{name}.unfinished')
  with tf.io.gfile.GFile(unfinished, 'wb') as file:
    file.write(contents)
  replace(unfinished, path)


def replace(source: str, target: str) -> None:
  """Renames a file in its place, once its bytes are on the disk.

  Raises:
    tf.errors.OpError: it cannot be renamed.
  """
  if not is_remote(source):
    descriptor = os.open(source, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
  tf.io.gfile.rename(source, target, overwrite=True)


def check_local(path: str, what: str) -> None:
  """Raises ConfigError for a path that the local file system does not have."""
  if is_remote(path):
    raise ConfigError(
        f'{what}: folders of images are read from local disks only; copy it '
        'here, or write its images to TFRecords with byol_jax.pack, where it '
        'is, and read them with tfrecord:')


def check_exists(path: str, what: str, kind: str) -> None:
  """Raises ConfigError unless a file or folder is there and can be asked for.

  Args:
    path: local or not.
    what: to begin the message with.
    kind: file or folder.
  """
  check_scheme(path, what)
  try:
    is_folder = tf.io.gfile.isdir(path)
    there = is_folder if kind == 'folder' else (
        tf.io.gfile.exists(path) and not is_folder)
  except tf.errors.OpError as error:
    message = ' '.join(error.message.split())[:_MAX_ERROR_LENGTH]
    raise ConfigError(f'{what} cannot be reached: {message}') from error
  if not there:
    raise ConfigError(f'{what}: there is no such {kind}')

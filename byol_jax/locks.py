"""Locks: one job at a time works on a folder.

They are the system's (flock), so they end with the process, however that ends.
"""

from collections.abc import Iterator
import contextlib
import datetime
import fcntl
import os
import pathlib
import socket

from absl import logging

from byol_jax import config as config_lib


@contextlib.contextmanager
def hold(path: str | pathlib.Path, what: str) -> Iterator[None]:
  """Keeps a lock file for this process until the end of the block.

  Where the file system has no locks, such as gs://, a warning says so.

  Args:
    path: of the file, made if need be.
    what: that is locked, for messages.

  Raises:
    ConfigError: another process has it; the message says which.
  """
  if '://' in str(path):
    logging.warning(
        '%s cannot be locked: start no second job on it.', what)
    yield
    return
  with open(path, 'a+') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      owner = file.read().strip() or 'another job'
      raise config_lib.ConfigError(
          f'another job works on {what} ({owner}): wait for its end, or stop '
          'it') from None
    except OSError as error:
      logging.warning(
          '%s cannot be locked (%s): start no second job on it.', what,
          error.strerror)
    with contextlib.suppress(OSError):  # who has it is only for messages
      file.truncate(0)
      file.write(
          f'{socket.gethostname()}, pid {os.getpid()}, since '
          f'{datetime.datetime.now():%Y-%m-%d %H:%M:%S}\n')
      file.flush()
    yield

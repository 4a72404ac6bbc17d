"""Locks: one job at a time works on a folder.

They are the system's (flock), so they end with the process, however that ends;
where the file system has none, see `lease`.
"""

from collections.abc import Iterator
import contextlib
import datetime
import fcntl
import os
import socket
import time
from typing import TextIO

from absl import logging
from etils import epath

from byol_jax import config as config_lib
from byol_jax import lease

# A network's file system may hold the lock of a host that is gone for a while.
_OTHER_HOST_SECS, _PAUSE_SECS = 120.0, 5.0


@contextlib.contextmanager
def hold(path: epath.PathLike, what: str) -> Iterator[None]:
  """Keeps a lock file for this process until the end of the block.

  Args:
    path: of the file, made if need be.
    what: that is locked, for messages.

  Raises:
    ConfigError: another process has it; the message says which.
  """
  owner = (f'{socket.gethostname()}, pid {os.getpid()}, since '
           f'{datetime.datetime.now():%Y-%m-%d %H:%M:%S}')
  if '://' in os.fspath(path):
    with lease.hold(epath.Path(path), what, owner):
      yield
    return
  with open(path, 'a+') as file:
    _lock(file, what)
    with contextlib.suppress(OSError):  # who has it is only for messages
      file.truncate(0)
      file.write(f'{owner}\n')
      file.flush()
    yield


def _lock(file: TextIO, what: str) -> None:
  until = time.monotonic() + _OTHER_HOST_SECS
  while True:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return
    except BlockingIOError:
      file.seek(0)
      owner = file.read().strip() or 'another job'
      is_here = owner.partition(',')[0] in (socket.gethostname(), owner)
      if is_here or time.monotonic() > until:
        raise config_lib.ConfigError(
            f'another job works on {what} ({owner}): wait for its end, or stop '
            'it') from None
    except OSError as error:
      logging.warning(
          '%s cannot be locked (%s): start no second job on it.', what,
          error.strerror)
      return
    logging.info('%s is locked by %s; waiting', what, owner)
    time.sleep(_PAUSE_SECS)

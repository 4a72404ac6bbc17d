"""A lock where the file system has none, such as gs://: a file kept fresh.

Who has it writes the file anew every few seconds. A second job that finds the
file watches it for a while: where it changes, somebody is there; where not,
its owner is dead, and it is taken over.
"""

from collections.abc import Iterator
import contextlib
import json
import secrets
import threading
import time

from absl import logging
from etils import epath

from byol_jax import config as config_lib
from byol_jax import files
from byol_jax import terminal

_PERIOD_SECS = 15.0
_SILENCE_SECS = 4 * _PERIOD_SECS


@contextlib.contextmanager
def hold(path: epath.Path, what: str, owner: str) -> Iterator[None]:
  """Keeps the file for this process until the end of the block.

  Of two that begin at the same moment, one leaves with an error a period later.

  Args:
    path: of the file.
    what: that is locked, for messages.
    owner: who this is, for the messages of others.

  Raises:
    ConfigError: another process keeps it fresh.
  """
  token = secrets.token_hex(8)
  found = _read(path)
  if found is not None:
    logging.info(
        '%s was not given back by %s: watching for %.0f s whether that is '
        'there', what, found['owner'], _SILENCE_SECS)
    time.sleep(_SILENCE_SECS)
    now = _read(path)
    if now is not None and now != found:
      raise config_lib.ConfigError(
          f'another job works on {what} ({now["owner"]}): wait for its end, or '
          'stop it')
  ended = threading.Event()
  thread = threading.Thread(
      target=_renew, args=(path, what, owner, token, ended), daemon=True)
  _write(path, owner, token, 0)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()
    with contextlib.suppress(Exception):
      if _read(path)['token'] == token:  # and was not taken over meanwhile
        path.unlink()


def _renew(
    path: epath.Path, what: str, owner: str, token: str,
    ended: threading.Event) -> None:
  beat = 0
  while not ended.wait(_PERIOD_SECS):
    try:
      found = _read(path)
      if found is not None and found['token'] != token:
        _leave(f'{found["owner"]} has taken {what} over')
        return
      beat += 1
      _write(path, owner, token, beat)
    except Exception as error:  # of other libraries; it may pass
      logging.warning('%s could not be renewed (%s)', path, error)


def _leave(why: str) -> None:
  terminal.leave(1, f'error: {why}\n')


def _write(path: epath.Path, owner: str, token: str, beat: int) -> None:
  files.write_whole(
      path, json.dumps({'owner': owner, 'token': token, 'beat': beat}))


def _read(path: epath.Path) -> dict[str, str | int] | None:
  try:
    return json.loads(path.read_text()) if path.exists() else None
  except (ValueError, FileNotFoundError):  # none of ours, or just given back
    return None

"""Watching the other processes of a job: who is gone, who hangs, who left.

Every process says each second, through JAX's coordination service, that it is
there and how far it is. One that is not heard of any more (killed, frozen, its
machine gone), that does not move while others wait for it, or that left with
an error, is named by the others, which then leave too: with
`stopping.RUN_AGAIN` where starting all of them again goes on.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import threading
import time
from typing import Any

from byol_jax import failures
from byol_jax import stopping
from byol_jax import terminal

_PREFIX = 'byol_jax/peers/'
_PERIOD_SECS = 1.0
# Of silence, once a collective has failed: somebody is gone.
_SUSPICIOUS_SECS = 5.0
# The others hear of each other through process 0, whose end would be theirs.
_LAST_WORDS_SECS = 3.0
_watch = None  # of this process, where there are others


@dataclasses.dataclass
class Peer:
  """What is known of one process, by this one's clock."""

  name: str
  said: dict[str, Any]
  heard: float  # when it last said something new
  moved: float  # when it was last further than before, or at something new


def verdict(
    peers: Mapping[int, Peer], me: int, *, now: float, timeout_secs: float,
    hang_secs: float,
) -> tuple[int, str] | None:
  """Whether this process has to leave: with which code, and why.

  Args:
    peers: all that were heard of, this process included.
    me: this process.
    now: by the clock of `peers`.
    timeout_secs: of silence that are too long.
    hang_secs: without progress that are too long, if others are further.
  """
  others = {i: peer for i, peer in peers.items() if i != me}
  for i, peer in others.items():
    code = peer.said.get('code')
    if code:
      return code, f'process {i} ({peer.name}) left: {peer.said["why"]}'
  working = {i: p for i, p in peers.items() if p.said.get('code') is None}
  for i, peer in working.items():
    if i != me and now - peer.heard > timeout_secs:
      return stopping.RUN_AGAIN, (
          f'process {i} ({peer.name}) has not been heard of for '
          f'{now - peer.heard:.0f} s, after {peer.said["doing"]}')
  furthest = max((p.said['progress'] for p in working.values()), default=0)
  for i, peer in working.items():
    if peer.said['progress'] < furthest and now - peer.moved > hang_secs:
      return stopping.RUN_AGAIN, (
          f'process {i} ({peer.name}) hangs: it has not moved for '
          f'{now - peer.moved:.0f} s, in {peer.said["doing"]}, and the others '
          'wait for it')
  return None


class Watch:
  """Two threads: one talks, one judges, for talking may hang."""

  def __init__(
      self, client: Any, me: int, *, timeout_secs: float, hang_secs: float):
    """Starts at once; `client` is JAX's of its coordination service."""
    self._client = client
    self._me = me
    self._timeout_secs = timeout_secs
    self._hang_secs = hang_secs
    self._peers: dict[int, Peer] = {}
    self._answered = time.monotonic()
    self._lock = threading.Lock()  # orbax waits in threads of its own, too
    self._talking = threading.Lock()
    self._goes = threading.Event()  # of its own accord
    self._said = {
        'name': f'{socket.gethostname()}, pid {os.getpid()}', 'beat': 0,
        'progress': 0, 'doing': 'its start', 'code': None, 'why': ''}
    self._threads = [
        threading.Thread(target=target, name='peers', daemon=True)
        for target in (self._talk, self._judge)]
    for thread in self._threads:
      thread.start()

  def advance(self, doing: str | None, count: int = 1) -> str:
    """Notes that this process is further, and at what; at what it was."""
    with self._lock:
      before = self._said['doing']
      self._said |= {
          'progress': self._said['progress'] + count, 'doing': doing or before}
    return before

  def leave(self, code: int, why: str) -> None:
    """Lets the others know; says nothing more after that."""
    self._said |= {'code': code, 'why': why}
    self._exchange()

  def close(self) -> None:
    """Ends the threads, after `leave(0, '')`.

    Python's end finds a thread that is in C++ just then, and breaks it off
    there, which C++ takes for a reason to end the process.
    """
    for thread in self._threads:
      thread.join(_SUSPICIOUS_SECS)

  def suspect(self) -> None:
    """A collective failed, so somebody is gone: says who, and leaves.

    Returns only if all others are there.
    """
    self._timeout_secs = min(self._timeout_secs, _SUSPICIOUS_SECS)
    time.sleep(self._timeout_secs + 4 * _PERIOD_SECS)
    if self._goes.is_set():  # and has last words, by another thread
      threading.Event().wait()

  def _talk(self) -> None:
    while self._said['code'] is None:
      self._exchange()
      time.sleep(_PERIOD_SECS)

  def _exchange(self) -> None:
    # What is said last must be the last to arrive; talking may hang, though.
    turn = self._talking.acquire(timeout=_SUSPICIOUS_SECS)
    try:
      self._exchange_once()
    finally:
      if turn:
        self._talking.release()

  def _exchange_once(self) -> None:
    self._said['beat'] += 1
    try:
      self._client.key_value_set(
          f'{_PREFIX}{self._me}', json.dumps(self._said),
          allow_overwrite=True)
      entries = self._client.key_value_dir_get(_PREFIX)
    except RuntimeError:  # the judge counts the seconds
      return
    self._answered = time.monotonic()
    for key, value in entries:
      self._hear(int(key.rpartition('/')[2]), json.loads(value))

  def _hear(self, process: int, said: dict[str, Any]) -> None:
    now, known = time.monotonic(), self._peers.get(process)
    if known is None:
      self._peers[process] = Peer(said['name'], said, now, now)
    elif said['beat'] != known.said['beat']:
      further = any(
          said[key] != known.said[key] for key in ('progress', 'doing'))
      self._peers[process] = Peer(
          said['name'], said, now, now if further else known.moved)

  def _judge(self) -> None:
    while self._said['code'] is None:
      time.sleep(_PERIOD_SECS)
      now = time.monotonic()
      found = verdict(
          dict(self._peers), self._me, now=now,
          timeout_secs=self._timeout_secs, hang_secs=self._hang_secs)
      silence = now - self._answered
      if found is None and self._me and silence > self._timeout_secs:
        found = stopping.RUN_AGAIN, (
            'process 0 (the coordinator) has not answered for '
            f'{silence:.0f} s')
      if found and self._said['code'] is None:
        self._go(*found)

  def _go(self, code: int, why: str) -> None:
    self._goes.set()
    try:
      _say(code, why)
      threading.Thread(
          target=self.leave, args=(code, why), daemon=True).start()
      time.sleep(_PERIOD_SECS if self._me else _LAST_WORDS_SECS)
    finally:
      os._exit(code)


def _say(code: int, why: str) -> None:
  """One line to the terminal, if that reads it."""
  again = (
      '; run the same command again on all of them to go on from the last '
      'checkpoint' if code == stopping.RUN_AGAIN else '')
  terminal.last_words(f'error: {why}{again}\n')


def _set_on_abort(handler: Any) -> int | None:
  """Sets what C calls on abort(); the one before."""
  # Python's own handler would wait for a main thread that is to die.
  listen = ctypes.CDLL(None).signal
  listen.restype = ctypes.c_void_p
  return listen(signal.SIGABRT, handler)


def _make_on_abort(why: str) -> Any:
  @ctypes.CFUNCTYPE(None, ctypes.c_int)
  def on_abort(_: int) -> None:
    try:
      _say(stopping.RUN_AGAIN, why)
    finally:
      os._exit(stopping.RUN_AGAIN)

  return on_abort


# Kept for ever, as C knows no more of it than its address.
_on_lost_coordinator = _make_on_abort('process 0 (the coordinator) is gone')


@contextlib.contextmanager
def aborting(why: str) -> Iterator[None]:
  """Makes a line and a code of abort(), JAX's way to end a process.

  Args:
    why: it does so within the block.
  """
  handler = _make_on_abort(why)
  before = _set_on_abort(handler)
  try:
    yield
  finally:
    _set_on_abort(ctypes.c_void_p(before))


def watch(*, timeout_secs: float, hang_secs: float) -> None:
  """Starts to watch the others; `jax.distributed` must be initialised."""
  global _watch
  import jax
  from jax._src import distributed  # what orbax and Flax take it from
  if jax.process_index():
    _set_on_abort(_on_lost_coordinator)
  _watch = Watch(
      distributed.global_state.client, jax.process_index(),
      timeout_secs=timeout_secs, hang_secs=hang_secs)
  _count_waits_of_libraries()


def _count_waits_of_libraries() -> None:
  """Orbax waits for all processes in the midst of a save or a restore."""
  from jax.experimental import multihost_utils
  sync = multihost_utils.sync_global_devices

  def counted(name: str) -> None:
    wait()
    sync(name)

  multihost_utils.sync_global_devices = counted


def advance(doing: str, count: int = 1) -> None:
  """Notes progress, such as 'step 12'; nothing where there are no others.

  Who is behind is told by the count alone. So all processes must come to the
  same: what one of them finds done counts like what it does, and what only one
  of them does counts nothing.

  Args:
    doing: what this process is at.
    count: of such steps that are behind it now.
  """
  if _watch is not None:
    _watch.advance(doing, count)


def wait() -> None:
  """Notes that this process now waits for the others; they must do so, too.

  Whoever has not come is behind by that, and is the one that hangs: also
  between two steps, in what a save or an evaluation does on its own.
  """
  if _watch is not None:
    _watch.advance(None)


@contextlib.contextmanager
def at(doing: str) -> Iterator[None]:
  """What this process is at, for the length of a block."""
  before = _watch and _watch.advance(doing, 0)
  yield
  if _watch is not None:
    _watch.advance(before, 0)


def run(fn: Callable[[], Any]) -> Any:
  """Calls `fn`; if a collective fails in it, says who is gone, and leaves."""
  if _watch is None:
    return fn()
  import jax
  try:
    return fn()
  except jax.errors.JaxRuntimeError as error:
    # A launcher that saw it die may ask the others to stop, which they do.
    with stopping.requests():
      _watch.suspect()
    if failures.is_of_a_network(error):
      why = ('all processes are there, but they waited too long for each other '
             f'({failures.reason(error)})')
      _say(stopping.RUN_AGAIN, why)
      part(stopping.RUN_AGAIN, why)
    raise


def part(code: int, message: str = '') -> None:
  """Ends this process's part in the job, if it has others beside it.

  With code 0 it waits until all are done. With another it does not return: the
  others cannot go on, hear why, and leave too.

  Args:
    code: that this process is to leave with.
    message: a line why, if it is not 0.
  """
  if _watch is None:
    return
  import jax
  _watch.leave(code, message)
  if not code:
    _watch.close()
    jax.distributed.shutdown()
    return
  if not jax.process_index():
    time.sleep(_LAST_WORDS_SECS)
  terminal.leave(code)

"""Real processes for tests of jobs that run in several.

    with processes.start(['-m', 'byol_jax.evaluate', ...], folder) as started:
      started[1].send_signal(signal.SIGTERM)
      done = processes.wait(started)

Each has devices of its own, on this machine's CPU. None outlives the block.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

_FLAG = '--xla_force_host_platform_device_count'


class Done(NamedTuple):
  """How a process ended; `code` is negative where a signal ended it."""
  code: int
  out: str
  err: str


class Process(subprocess.Popen):
  """One of them, whose output goes to files, so that it never waits."""

  def __init__(
      self, arguments: Sequence[str], folder: pathlib.Path, name: str,
      environment: Mapping[str, str]):
    """Starts at once; what it prints goes to `folder`."""
    self._paths = [folder / f'{name}.{kind}' for kind in ('out', 'err')]
    with contextlib.ExitStack() as stack:
      out, err = (
          stack.enter_context(path.open('wb')) for path in self._paths)
      super().__init__(
          [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=out,
          stderr=err, env=dict(environment), start_new_session=True)

  def read(self) -> tuple[str, str]:
    """What it has printed so far: stdout, stderr."""
    out, err = (path.read_text(errors='replace') for path in self._paths)
    return out, err

  def kill_all(self) -> None:
    """Ends it and whatever it has started."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.pid, signal.SIGKILL)
    self.wait()


@contextlib.contextmanager
def start(
    arguments: Sequence[str], folder: str | os.PathLike[str], *,
    count: int = 2, devices: int = 2,
    environment: Mapping[str, str] | None = None,
) -> Iterator[list[Process]]:
  """Starts the processes of one job; ends all of them with the block.

  Args:
    arguments: of Python, such as `['-m', 'byol_jax.evaluate', ...]`. Where
      there are several, the flags of `byol_jax.processes` come after them.
    folder: for what they print.
    count: of processes.
    devices: of each.
    environment: variables beside this process's own.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  flags = [flag for flag in os.environ.get('XLA_FLAGS', '').split()
           if not flag.startswith(_FLAG)]
  variables = os.environ | {
      'JAX_PLATFORMS': 'cpu', 'PYTHONUNBUFFERED': '1',
      'XLA_FLAGS': ' '.join([*flags, f'{_FLAG}={devices}'])
  } | dict(environment or {})
  coordinator = f'--coordinator=127.0.0.1:{free_port()}'
  with contextlib.ExitStack() as stack:
    started = []
    for number in range(count):
      told = [coordinator, f'--num_processes={count}',
              f'--process_id={number}'] if count > 1 else []
      started.append(Process(
          [*arguments, *told], folder, f'process{number}', variables))
      stack.callback(started[-1].kill_all)
    yield started


def wait(started: Sequence[Process], timeout: float = 300.0) -> list[Done]:
  """Waits for all of them.

  Raises:
    TimeoutError: with what they have printed, if one has not ended in time.
  """
  deadline = time.monotonic() + timeout
  for process in started:
    try:
      process.wait(max(deadline - time.monotonic(), 0.01))
    except subprocess.TimeoutExpired:
      said = '\n'.join(
          f'--- process {number}, code {process.poll()}\n' + '\n'.join(
              process.read()) for number, process in enumerate(started))
      raise TimeoutError(f'not ended after {timeout:g} s\n{said}') from None
  return [Done(process.returncode, *process.read()) for process in started]


def run(
    arguments: Sequence[str], folder: str | os.PathLike[str],
    timeout: float = 300.0, **settings: object) -> list[Done]:
  """`start`, then `wait`."""
  with start(arguments, folder, **settings) as started:
    return wait(started, timeout)


def free_port() -> int:
  """One that nobody listens at, and that Linux gives to nobody unasked."""
  while True:
    port = random.randrange(20_000, 32_768)
    with contextlib.suppress(OSError), socket.socket() as listener:
      listener.bind(('127.0.0.1', port))
      return port


def has_ended(pid: int) -> bool:
  """Whether a process is gone, or but waits for a parent to take its code."""
  state = subprocess.run(
      ['ps', '-o', 'stat=', '-p', str(pid)], capture_output=True, text=True,
      check=False).stdout.strip()
  return state[:1] in ('', 'Z')

"""Real runs of `byol_jax.pretrain`: begun, disturbed, waited for, compared."""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
# The quickstart's network, narrow, on images that need no download.
_KEPT = 3
ARGUMENTS = (
    '--config=configs/quickstart.py', '--config.data=fake:256',
    '--config.resnet.width=0.0625', '--config.projector.hidden_size=64',
    '--config.projector.output_size=32', '--config.predictor.hidden_size=64',
    '--config.batch_size=16', '--config.total_steps=300',
    '--config.warmup_steps=10', '--config.checkpoint_every_steps=7',
    f'--config.checkpoints_to_keep={_KEPT}', '--config.log_every_steps=5',
    '--config.evaluate_every_steps=150', '--config.evaluate_batch_size=64',
    '--config.knn.k=5', '--config.final_protocols=()')
TOTAL_STEPS = 300
RUN_AGAIN = 75
_PATIENCE_SECS = 600
# What is compiled runs for moments. And of several processes only the first
# writes to JAX's cache: the longer the second compiles what the first finds
# there, the longer that waits, which is no trouble to be measured here.
_XLA_FLAGS = (
    '--xla_backend_optimization_level=0 '
    '--xla_llvm_disable_expensive_passes=true')
_LEAVE_SECS = 60  # of a process, once the other has left
# On a busy machine, processes may miss each other at first.
_CHANCES = 3


class FailedError(Exception):
  """What happened is not what should have; `tried` counts the attempts."""

  def __init__(self, message: str, tried: int = 1):
    super().__init__(message)
    self.tried = tried


class NotTriedError(Exception):
  """This machine cannot cause the trouble; the message says why."""


@dataclasses.dataclass
class Survived:
  """One attempt that ended as it should.

  Attributes:
    what: was tried.
    lost: steps, or rows, beyond the last save.
    note: a figure, such as seconds; '' for none.
  """

  what: str
  lost: int = 0
  note: str = ''


def expect(condition: Any, message: str) -> None:
  """Raises FailedError unless it holds."""
  if not condition:
    raise FailedError(message)


class Run:
  """One process, in a session of its own; what it says goes to a file."""

  def __init__(
      self, command: Sequence[str], log: pathlib.Path,
      env: dict[str, str] | None = None):
    """Starts `command`, with `env` on top of this process's environment."""
    self._log = log
    self.begin = time.monotonic()
    with log.open('ab') as file:
      self._process = subprocess.Popen(
          command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file,
          stderr=file, start_new_session=True,
          env=os.environ | {'PYTHONUNBUFFERED': '1'} | (env or {}))
    self.pid = self._process.pid

  @property
  def text(self) -> str:
    """All that it has said."""
    return self._log.read_text(errors='replace')

  @property
  def errors(self) -> list[str]:
    """Its lines for users."""
    return [line for line in self.text.splitlines()
            if line.startswith('error: ')]

  @property
  def is_running(self) -> bool:
    return self._process.poll() is None

  def signal(self, number: int) -> None:
    """To the process alone."""
    if self.is_running:
      self._process.send_signal(number)

  @contextlib.contextmanager
  def frozen(self):
    """Nothing moves in the meantime."""
    self.signal(signal.SIGSTOP)
    try:
      yield
    finally:
      self.signal(signal.SIGCONT)

  def kill(self) -> None:
    """With all that it has started."""
    for pid in _of_session(self.pid):  # a launcher's are in groups of their own
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    self._process.wait()

  def wait(self, timeout_secs: float = _PATIENCE_SECS) -> int:
    """Its exit code, negative for a signal."""
    try:
      return self._process.wait(timeout_secs)
    except subprocess.TimeoutExpired:
      raise FailedError(
          f'still running after {timeout_secs} s; {self._end()}') from None

  def ends(self, code: int, timeout_secs: float = _PATIENCE_SECS) -> float:
    """Expects this exit code, and no traceback; the seconds until it came."""
    begin = time.monotonic()
    found = self.wait(timeout_secs)
    expect(found == code,
           f'left with code {found}, expected {code}; {self._end()}')
    expect('Traceback' not in self.text, f'shows a traceback: {self._log}')
    return time.monotonic() - begin

  def until(
      self, condition: Callable[[], Any], what: str,
      timeout_secs: float = _PATIENCE_SECS, poll_secs: float = 0.005) -> Any:
    """Waits for something true; `what` it is, if it never comes."""
    begin = time.monotonic()
    while not (found := condition()):
      expect(self.is_running, f'ended before {what}; {self._end()}')
      expect(time.monotonic() - begin < timeout_secs,
             f'no {what} in {timeout_secs} s; {self._end()}')
      time.sleep(poll_secs)
    return found

  def until_said(
      self, words: str, timeout_secs: float = _PATIENCE_SECS) -> None:
    self.until(lambda: words in self.text, f'"{words}"', timeout_secs, 0.05)

  def refuses(self, *words: str) -> str:
    """Expects code 1 and one line with these words; the line."""
    self.ends(1)
    expect(len(self.errors) == 1,
           f'expected one line of error; {self._end()}')
    for word in words:
      expect(word in self.errors[0], f'no {word!r} in {self.errors[0]!r}')
    return self.errors[0]

  def _end(self) -> str:
    return f'its last words, in {self._log}: {self.text[-300:]!r}'


def _of_session(leader: int) -> list[int]:
  """The processes that `leader` has started, and it, as far as they run."""
  found = []
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    with contextlib.suppress(OSError):
      fields = path.read_text().rpartition(')')[2].split()
      if int(fields[3]) == leader:
        found.append(int(path.parent.name))
  return found


class Lab:
  """Where the runs of one trouble are, and all that they share."""

  def __init__(self, root: pathlib.Path, seed: int, is_short: bool):
    """In the existing folder `root`, of which everything may be removed."""
    self.root = root
    self.is_short = is_short
    self._seed = seed
    self._runs: list[Run] = []
    self._count = 0
    self.rng = random.Random(seed)
    self._xla_flags = f'{os.environ.get("XLA_FLAGS", "")} {_XLA_FLAGS}'
    self._env = {
        'XLA_FLAGS': self._xla_flags,
        'JAX_PLATFORMS': 'cpu',
        'XDG_CACHE_HOME': str(root / 'cache'),
        'JAX_COMPILATION_CACHE_DIR': os.environ.get(
            'JAX_COMPILATION_CACHE_DIR', str(root / 'compiled')),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}

  def begin(self, name: str) -> None:
    """Before each trouble: its draws do not depend on those before it."""
    self.rng = random.Random(f'{self._seed} {name}')

  def end(self) -> None:
    """After each: nothing is left running."""
    while self._runs:
      self._runs.pop().kill()

  def folder(self, name: str) -> pathlib.Path:
    """A new one, not yet made."""
    self._count += 1
    return self.root / f'{self._count}_{name}'

  def start(
      self, workdir: pathlib.Path, *extra: str,
      module: str = 'byol_jax.pretrain', env: dict[str, str] | None = None,
      arguments: Sequence[str] = ARGUMENTS) -> Run:
    """A run, or its continuation; later arguments win."""
    return self.start_command(
        self.command(workdir, *extra, module=module, arguments=arguments),
        workdir.name, env)

  def command(
      self, workdir: pathlib.Path, *extra: str,
      module: str = 'byol_jax.pretrain',
      arguments: Sequence[str] = ARGUMENTS) -> list[str]:
    """What `start` starts."""
    return [sys.executable, '-m', module, *arguments, f'--workdir={workdir}',
            *extra]

  def start_command(
      self, command: Sequence[str], name: str,
      env: dict[str, str] | None = None, log: pathlib.Path | None = None,
  ) -> Run:
    """Any command; what it says goes to `log`, if not to the lab's folder."""
    run = Run(command, log or self.folder(f'{name}.log'),
              self._env | (env or {}))
    self._runs.append(run)
    return run

  def start_two(
      self, workdir: pathlib.Path, *extra: str, devices: int = 2,
      **kwargs: Any) -> list[Run]:
    """Two processes of one run."""
    port = processes.free_port()
    flags = f'--xla_force_host_platform_device_count={devices}'
    env = kwargs.pop('env', {}) | {
        'XLA_FLAGS': f'{self._xla_flags} {flags}'}
    return [
        self.start(
            workdir, *extra, f'--coordinator=127.0.0.1:{port}',
            '--num_processes=2', f'--process_id={i}', env=env, **kwargs)
        for i in range(2)]

  def two_under_way(
      self, workdir: pathlib.Path, steps: int, *extra: str, **kwargs: Any,
  ) -> list[Run]:
    """Two processes that have just written so many steps' rows."""
    goal = last_row(workdir) + steps
    for _ in range(_CHANCES):
      pair = self.start_two(workdir, *extra, **kwargs)
      pair[0].until_said('compiling the step')
      try:
        pair[0].until(lambda: last_row(workdir) >= goal, f'row {goal}')
        return pair
      except FailedError:
        codes = [run.wait(_LEAVE_SECS) for run in pair]
        if RUN_AGAIN not in codes:
          raise
    raise FailedError(f'no row {goal} in {_CHANCES} starts')

  @functools.cache  # noqa: B019  (a lab lives as long as the command)
  def undisturbed(
      self, *extra: str, processes: int = 1,
      env: tuple[tuple[str, str], ...] = ()) -> pathlib.Path:
    """The workdir of a run to which nothing happens, made once."""
    module = 'tests.chaos.afflicted' if env else 'byol_jax.pretrain'
    start = self.start_two if processes == 2 else self.start
    for _ in range(_CHANCES):
      workdir = self.folder('undisturbed')
      runs = start(workdir, *extra, module=module, env=dict(env))
      codes = [run.wait() for run in (runs if processes == 2 else [runs])]
      if not any(codes):
        return workdir
    raise FailedError(f'with no trouble, it left with codes {codes}: {workdir}')

  @functools.cache  # noqa: B019
  def _half(self) -> pathlib.Path:
    workdir = self.folder('half')
    run = self.start(workdir)
    run.until(lambda: newest_step(workdir) >= TOTAL_STEPS // 3, 'its saves')
    run.signal(signal.SIGKILL)
    run.wait()
    # Orbax was perhaps half-way through deleting what comes before them.
    for step in steps_saved(workdir)[:-_KEPT]:
      shutil.rmtree(workdir / 'checkpoints' / str(step))
    return workdir

  def half(self, name: str) -> pathlib.Path:
    """A copy of a run that was killed half-way, with several checkpoints."""
    workdir = self.folder(name)
    shutil.copytree(self._half(), workdir)
    return workdir


def steps_saved(workdir: pathlib.Path) -> list[int]:
  """Of finished checkpoints, the oldest first."""
  with contextlib.suppress(FileNotFoundError):
    return sorted(
        int(name) for name in os.listdir(workdir / 'checkpoints')
        if name.isdigit())
  return []


def newest_step(workdir: pathlib.Path) -> int:
  """Of its finished checkpoints, 0 if there is none."""
  return max(steps_saved(workdir), default=0)


def unfinished(workdir: pathlib.Path) -> list[str]:
  """Folders of saves that are under way, or were."""
  with contextlib.suppress(FileNotFoundError):
    return [name for name in os.listdir(workdir / 'checkpoints')
            if 'orbax-checkpoint-tmp' in name]
  return []


def first_step(run: Run) -> int | None:
  """The step that it has begun at; None: it did not come so far."""
  found = re.search(r'^continuing .* at step (\d+)', run.text, re.M)
  if found:
    return int(found.group(1))
  return 0 if 'compiling the step' in run.text else None


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Of metrics.jsonl, without what depends on the speed."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [
      {k: v for k, v in json.loads(line).items() if not k.startswith('perf/')}
      for line in lines]


def last_row(workdir: pathlib.Path) -> int:
  """The step of its newest row, 0 if there is none."""
  try:
    lines = (workdir / 'metrics.jsonl').read_bytes().splitlines(keepends=True)
  except FileNotFoundError:
    return 0
  whole = [line for line in lines if line.endswith(b'\n')]
  return json.loads(whole[-1])['step'] if whole else 0


def leaves(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """The newest checkpoint's arrays, by path."""
  import jax

  from byol_jax.training import checksum
  from byol_jax.training import saved_run
  _, _, state = saved_run.restore(str(workdir))
  return dict(zip(
      checksum.paths(state), map(np.asarray, jax.tree.leaves(state)),
      strict=True))


def expect_same_state(workdir: pathlib.Path, other: pathlib.Path) -> None:
  """Bit for bit, every array of the newest checkpoints.

  Raises:
    FailedError: naming the first that differs.
  """
  found, expected = leaves(workdir), leaves(other)
  expect(found.keys() == expected.keys(), 'the states hold other arrays')
  for name, array in expected.items():
    expect(found[name].tobytes() == array.tobytes(),
           f'{name} differs in {workdir} and {other}')


def expect_same_end(workdir: pathlib.Path, other: pathlib.Path) -> None:
  """The same state, the same rows of metrics, each once, bit for bit.

  Raises:
    FailedError: naming the first difference.
  """
  expect_same_state(workdir, other)
  found, expected = rows(workdir), rows(other)
  for ours, theirs in zip(found, expected, strict=False):
    expect(ours == theirs, f'the rows of step {theirs["step"]} differ in '
           f'{workdir} and {other}')
  expect(len(found) == len(expected),
         f'{len(found)} rows in {workdir}, {len(expected)} in {other}')


def expect_same_result(workdir: pathlib.Path, other: pathlib.Path) -> None:
  """The same figures of the final evaluation, and how long it took aside.

  Raises:
    FailedError: if they differ.
  """
  found, expected = (
      {k: v for k, v in json.loads((path / 'result.json').read_text()).items()
       if 'second' not in k}
      for path in (workdir, other))
  expect(found == expected, f'result.json differs in {workdir} and {other}')

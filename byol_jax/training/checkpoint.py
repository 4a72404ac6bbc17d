"""Checkpoints through orbax: the state, and a note of the run around it.

    WORKDIR/checkpoints/STEP/state   the TrainState
    WORKDIR/checkpoints/STEP/run     JSON: config, clock, ..., checksums

Saving is asynchronous and atomic: a checkpoint that was not finished when the
run was killed is not there afterwards. One that cannot be written, for want of
space or whatever else, costs the run nothing but that. What is read back is
compared with its checksums; where it is damaged, an older one is taken.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import json
import time
from typing import Any
from typing import NamedTuple
import zlib

from absl import logging
from etils import epath
import jax
import orbax.checkpoint as ocp

from byol_jax import config as config_lib
from byol_jax import failures
from byol_jax import files
from byol_jax import host_memory
from byol_jax import stopping
from byol_jax import tensorstore_leak
from byol_jax.data import remote
from byol_jax.training import agreement
from byol_jax.training import checksum
from byol_jax.training import devices

# Raised by orbax for files that are missing or not as they were written.
_DAMAGE = (
    ValueError, TypeError, AttributeError, LookupError, FileNotFoundError,
    NotImplementedError)
# What TensorStore says of everything else.
_NOT_THE_FILES = (
    'PERMISSION_DENIED', 'UNAUTHENTICATED', 'RESOURCE_EXHAUSTED',
    'UNAVAILABLE', 'DEADLINE_EXCEEDED', 'ABORTED', 'CANCELLED')
# For the other processes to do their part of a save.
_SAVE_TIMEOUT_SECS = 300
# Where the run ends there is no later save that might succeed instead.
_LAST_SAVE_TRIES, _LAST_SAVE_PAUSE_SECS = 30, 10.0


class DamagedError(config_lib.ConfigError):
  """A checkpoint that is not what was saved."""


class Restored(NamedTuple):
  """A checkpoint that is whole."""
  step: int
  run: dict[str, Any]
  state: Any


class Checkpoints:
  """The checkpoints of one workdir, saved by all processes together."""

  def __init__(self, workdir: str, keep: int = 1, is_ours: bool = False):
    """Opens `workdir`.

    Args:
      workdir: of a run.
      keep: how many of the newest checkpoints are kept.
      is_ours: whether this job alone saves there, as who has the lock knows;
        what an earlier one has not finished is then removed. A reader must
        leave it: a run may be writing it.
    """
    self.directory = files.absolute(workdir) / 'checkpoints'
    self._keep = keep
    self._pending: int | None = None  # a step whose save is under way
    self._failure = ''  # why the last save failed, until the next one begins
    if is_ours:
      self._remove_unfinished()
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        self.directory,
        options=ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            async_options=ocp.AsyncOptions(timeout_secs=_SAVE_TIMEOUT_SECS)),
        item_handlers={
            'state': ocp.StandardCheckpointHandler(),
            'run': ocp.JsonCheckpointHandler()})

  def steps(self) -> list[int]:
    """Of all finished checkpoints, the newest first.

    As process 0 sees them: a network's file system may show others older ones.
    All processes must ask.
    """
    return agreement.of_first(sorted(self._manager.all_steps(), reverse=True))

  def latest_step(self) -> int | None:
    """The newest finished checkpoint's step."""
    return next(iter(self.steps()), None)

  def save(self, step: int, state: Any, run: dict[str, Any]) -> None:
    """Starts saving; `state` may be donated as soon as this returns.

    Where it fails, now or in the background, an error is logged by this, by
    `poll` or by `wait`, and the next save is tried as if nothing had happened.

    Raises:
      UnfinishedError: it failed before it was in the background, and there are
        other processes, which cannot do their part any more.
    """
    self.wait()
    tensorstore_leak.bound()
    host_memory.give_back()
    if devices.any_process(bool(self._failure)):
      self._recover()
    self._pending = step
    try:
      if not self._manager.save(step, args=ocp.args.Composite(
          state=ocp.args.StandardSave(devices.join(state)),
          run=ocp.args.JsonSave(_seal(run, state)))):
        raise ValueError('there is a newer checkpoint')
    except Exception as error:  # of many types, by many libraries
      self._fail(error)
      if jax.process_count() > 1:
        raise stopping.UnfinishedError(
            f'saving step {step} failed in process {jax.process_index()} '
            f'({self._failure}), and the others wait for it') from error

  def poll(self) -> None:
    """Logs an error if the save under way has failed; does not wait."""
    if self._pending is not None and not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> bool:
    """Waits until what was started is saved; whether the last save was."""
    if self._pending is not None:
      try:
        self._manager.wait_until_finished()
      except Exception as error:
        self._fail(error)
      self._pending = None
    return not self._failure

  def save_surely(
      self, step: int, state: Any, run: dict[str, Any],
      must_stop: Callable[[], bool] = lambda: False) -> None:
    """Saves and waits; tries for minutes, as no later save comes.

    Args:
      step: see `save`.
      state: see `save`.
      run: see `save`.
      must_stop: whether the job is to leave; asked before another try.

    Raises:
      OSError: if it did not succeed.
      UnfinishedError: if it did not, and any process must stop.
    """
    for attempt in range(_LAST_SAVE_TRIES):
      if attempt:
        if devices.any_process(must_stop()):
          raise stopping.UnfinishedError(
              f'stopped; step {step} could not be saved ({self._failure}); '
              f'{self._describe_newest()}. Make room, then run again')
        logging.error('trying again in %.0f s', _LAST_SAVE_PAUSE_SECS)
        time.sleep(_LAST_SAVE_PAUSE_SECS)
      self.save(step, state, run)
      if not devices.any_process(not self.wait()):
        return
    raise OSError(
        f'step {step} could not be saved ({self._failure}); '
        f'{self._describe_newest()}. Make room, then run again')

  def _fail(self, error: Exception) -> None:
    self._failure = failures.reason(error)
    logging.error(
        'saving step %d failed (%s); %s', self._pending, self._failure,
        self._describe_newest())
    self._pending = None

  def _describe_newest(self) -> str:
    steps = [s for s in _steps_on_disk(self.directory) if s != self._pending]
    if not steps:
      return 'there is no checkpoint yet'
    return f'the checkpoint of step {max(steps)} is kept'

  def _recover(self) -> None:
    """Starts afresh after a failed save, and gives its space back."""
    self._failure = ''
    with contextlib.suppress(Exception):
      self._manager.close()
    devices.sync('save failed')
    self._remove_unfinished()
    self._manager = self._open()

  def _remove_unfinished(self) -> None:
    # Orbax would do it in the background, beside the next save.
    if not jax.process_index():
      for path in _unfinished(self.directory):
        with contextlib.suppress(*remote.FILE_ERRORS):
          path.rmtree()
    devices.sync('cleaned')

  def restore_run(self, step: int) -> dict[str, Any]:
    """The note that `save` was given at `step`.

    Raises:
      DamagedError: if it is cut short or damaged.
    """
    return self._read_run(step)[0]

  def _read_run(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The note, and the state's checksums."""
    with self._reading(step):
      return _unseal(self._manager.restore(
          step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))['run'])

  def restore_state(self, step: int, like: Any) -> Any:
    """The state saved at `step`, replicated; `like` gives its structure.

    Raises:
      ConfigError: if an array has another shape, or is not there.
      DamagedError: if the files are cut short or damaged.
    """
    with self._reading(step):
      saved = shapes(self._manager.item_metadata(step)['state'])
      if not saved:
        raise KeyError('orbax finds no arrays without its _METADATA')
    check_shapes(
        saved, shapes(like), f'the checkpoint {self.directory}/{step}')
    _, expected = self._read_run(step)
    with self._reading(step):
      state = devices.localize(self._manager.restore(
          step, args=ocp.args.Composite(
              state=ocp.args.StandardRestore(_abstract(like))))['state'])
      if expected:  # those of earlier versions have none
        found = checksum.checksums(state)
        wrong = [name for name in expected if found[name] != expected[name]]
        if wrong:
          raise ValueError(f'{wrong[0]} does not have the checksum that was '
                           'saved with it')
    return state

  def restore_newest(
      self, make_like: Callable[[dict[str, Any]], Any], *,
      set_aside: bool = False) -> Restored | None:
    """Restores the newest checkpoint that is whole; says what was damaged.

    Args:
      make_like: maps a run's note to the structure of its state; may raise.
      set_aside: move what is damaged out of the way of later saves.

    Returns:
      It, or None if there is no checkpoint.

    Raises:
      DamagedError: if none of several is whole.
    """
    steps, damaged = self.steps(), []
    for step in steps:
      restored, error = None, None
      try:
        run = self.restore_run(step)
        restored = Restored(
            step, run, self.restore_state(step, make_like(run)))
      except DamagedError as damage:
        error = damage
      if devices.any_process(error is not None):
        logging.error('%s', error or f'another process finds the checkpoint '
                      f'of step {step} damaged')
        damaged.append(step)
        continue
      if damaged:
        logging.error(
            'going on from the checkpoint of step %d instead: %d steps are '
            'lost', step, damaged[0] - step)
        if set_aside:
          self._set_aside(damaged)
      return restored
    if damaged:
      raise DamagedError(
          f'none of the checkpoints in {self.directory} is whole '
          f'({", ".join(map(str, damaged))}): delete that folder to start from '
          'the beginning')
    return None

  def _set_aside(self, steps: list[int]) -> None:
    place = self.directory.parent / 'damaged_checkpoints'
    if not jax.process_index():
      place.mkdir(parents=True, exist_ok=True)
      for step in steps:
        moved = place / str(step)
        if moved.exists():
          moved.rmtree()
        (self.directory / str(step)).rename(moved)
    devices.sync('set aside')
    self._manager.reload()

  @contextlib.contextmanager
  def _reading(self, step: int) -> Iterator[None]:
    """What orbax raises of files that are not whole, as one line."""
    try:
      yield
    except Exception as error:
      # Of arrays it wraps what happened in a plain Exception. What is not the
      # files' fault, such as a lack of memory or of permission, goes on.
      cause = error.__cause__ if type(error) is Exception else error
      if not isinstance(cause, _DAMAGE) or any(
          word in f'{error} {cause}' for word in _NOT_THE_FILES):
        raise
      if not (self.directory / str(step)).is_dir():
        raise config_lib.ConfigError(
            f'the checkpoint {self.directory}/{step} made room for a newer one '
            'while it was read: start again') from error
      raise DamagedError(
          f'the checkpoint {self.directory}/{step} is cut short or damaged '
          f'({failures.reason(cause)})') from error

  def close(self) -> None:
    """Waits until what was started is saved."""
    self.wait()
    with contextlib.suppress(Exception):  # of a failed save, which was said
      self._manager.close()


def _seal(run: dict[str, Any], state: Any) -> dict[str, Any]:
  """A note with the checksums of the state, and one of all that."""
  sealed = {'note': run, 'checksums': checksum.checksums(state)}
  return sealed | {'crc32': _crc32(sealed)}


def _unseal(sealed: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """The inverse; of earlier versions the note was all there was.

  Raises:
    ValueError: if it is not what was saved.
  """
  if 'crc32' not in sealed and 'config' in sealed:
    return sealed, {}
  parts = {key: sealed[key] for key in ('note', 'checksums')}
  if sealed['crc32'] != _crc32(parts):
    raise ValueError('its note does not have its checksum')
  return parts['note'], parts['checksums']


def _crc32(value: Any) -> int:
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _steps_on_disk(directory: epath.Path) -> list[int]:
  """Steps of finished checkpoints, whatever a manager believes."""
  try:
    return [int(path.name) for path in directory.iterdir()
            # It gets its name when it is finished; on gs://, a file in it.
            if path.name.isdigit() and ocp.utils.is_checkpoint_finalized(path)]
  except remote.FILE_ERRORS:
    return []


def _unfinished(directory: epath.Path) -> list[epath.Path]:
  """What orbax leaves of a save that failed."""
  try:
    return [path for path in directory.iterdir()
            if not path.name.isdigit() and 'orbax' in path.name]
  except remote.FILE_ERRORS:
    return []


def _abstract(tree: Any) -> Any:
  """Shapes, to be restored as a copy on each device of all processes."""
  sharding = devices.everywhere()
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      tree)


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """By path, with dots: `online_params.encoder.stem_conv.kernel`."""
  return dict(zip(
      checksum.paths(tree), (tuple(x.shape) for x in jax.tree.leaves(tree)),
      strict=True))


def check_shapes(
    theirs: dict[str, tuple[int, ...]], mine: dict[str, tuple[int, ...]],
    what: str,
) -> None:
  """Raises ConfigError at the first array that differs."""
  for name in sorted(theirs | mine):
    if theirs.get(name) != mine.get(name):
      raise config_lib.ConfigError(
          f'{what} is of another network: {name} has the shape '
          f'{theirs.get(name, "(not there)")} there and '
          f'{mine.get(name, "(not there)")} here')

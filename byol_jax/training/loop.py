"""The pretraining loop: evaluate, save, take the next batch, step."""

from collections.abc import Iterator
import contextlib
import json
import math
import os
import time
from typing import Any

from absl import logging
from etils import epath
from flax import linen as nn
import jax
import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax import failures
from byol_jax import files
from byol_jax import locks
from byol_jax import peers
from byol_jax import stopping
from byol_jax.data import remote
from byol_jax.evaluation import final
from byol_jax.training import agreement
from byol_jax.training import checkpoint
from byol_jax.training import devices
from byol_jax.training import first_step
from byol_jax.training import journal as journal_lib
from byol_jax.training import metrics as metrics_lib
from byol_jax.training import resume
from byol_jax.training import setup as setup_lib
from byol_jax.training import state as state_lib


def pretrain(
    config: ml_collections.ConfigDict,
    workdir: str,
    encoder: nn.Module | None = None,
    *,
    accept_config_changes: bool = False,
    job_begin: float | None = None,
) -> None:
  """Pretrains an encoder; continues where `workdir` stands, if it does.

  Args:
    config: see `byol_jax.config`.
    workdir: for checkpoints, metrics.jsonl, distributions.jsonl, config.json,
      result.json, report.html and TensorBoard's event files.
    encoder: a Flax module from images f32[B, H, W, C], normalised with
      `config.augment.mean` and `std`, to embeddings [B, D]. It takes the place
      of `config.encoder`. If its call takes `train`, it is told; its
      `nn.BatchNorm` layers are synchronised over devices.
    accept_config_changes: continue also with fields that change what the rest
      of the run does.
    job_begin: when the process began, on the monotonic clock, where the time to
      the first step is to be reckoned from then; None is now.

  Raises:
    ConfigError: for a user's slip.
    FloatingPointError: when a metric is no longer finite.
    Preempted: after SIGTERM or SIGINT, with everything saved.
  """
  begin = time.monotonic()
  stopwatch = first_step.Stopwatch(job_begin)
  workdir = os.path.expanduser(workdir)
  config = config.copy_and_resolve_references()
  if encoder is not None:
    config.encoder = type(encoder).__name__
  with stopping.requests(at_once=True) as asked, _keep(workdir):
    agreement.check_same('the config', config_lib.to_dict(config))
    agreement.check_shared(workdir, '--workdir')
    setup = setup_lib.set_up(config, encoder)
    checkpoints = checkpoint.Checkpoints(
        workdir, config.checkpoints_to_keep, is_ours=True)
    try:
      state, note = resume.first_state(
          setup, checkpoints, workdir, accept_config_changes)
      begin -= note['wall_seconds']
      _write_config(config, workdir)
      state = Loop(
          setup, checkpoints, workdir, note, begin, asked, stopwatch).run(state)
    finally:
      checkpoints.close()
    asked.kept = (
        'the last step is saved; run the same command again for the final '
        'evaluation')
    asked.leave_at_once()
    final.evaluate_and_report(
        config, setup.network, state, setup.create_state(),
        setup.sources, setup.final_protocols, workdir, begin)


@contextlib.contextmanager
def _keep(workdir: str) -> Iterator[None]:
  """Makes the workdir, and keeps it for this run alone."""
  path = epath.Path(workdir)
  with contextlib.ExitStack() as stack:
    try:
      path.mkdir(parents=True, exist_ok=True)
      if not jax.process_index():
        stack.enter_context(locks.hold(path / '.lock', f'--workdir={workdir}'))
    except OSError as error:
      raise config_lib.ConfigError(
          f'--workdir={workdir} cannot be written ({error.strerror or error}): '
          'expected a folder, there or not, that may be written') from error
    yield


def _write_config(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Others read it while the run goes on."""
  if jax.process_index():
    return
  try:
    files.write_whole(
        epath.Path(workdir) / 'config.json',
        json.dumps(config_lib.to_dict(config), indent=2) + '\n')
  except remote.FILE_ERRORS as error:  # the checkpoints have it too
    logging.error('config.json was not written (%s)', failures.reason(error))


class _NotFiniteError(Exception):
  """Metrics of a step that are NaN or infinite."""

  def __init__(self, step: int, metrics: dict[str, float]):
    super().__init__(step)
    self.step = step
    self.metrics = metrics
    self.names = sorted(
        k for k, v in metrics.items() if not math.isfinite(v))


class Loop:
  """The run between its first and its last step."""

  def __init__(
      self, setup: setup_lib.Setup, checkpoints: checkpoint.Checkpoints,
      workdir: str, note: dict[str, Any], begin: float,
      asked: stopping.Requests | None = None,
      stopwatch: first_step.Stopwatch | None = None):
    """Nothing is opened yet.

    Args:
      setup: of the run.
      checkpoints: of the workdir.
      workdir: for everything else that is written.
      note: of the run so far, see `resume.first_note`; saved with the state.
      begin: when the run began, on the monotonic clock, had it not stopped.
      asked: what signals asked for; None: nothing ever.
      stopwatch: see `journal.Journal`.
    """
    self._setup = setup
    self._config = setup.config
    self._checkpoints = checkpoints
    self._workdir = workdir
    self._note = note
    self._begin = begin
    self._asked = asked or stopping.Requests()
    self._stopwatch = stopwatch
    self._all_asked = False  # whether any process was, as all know
    self._cast = self._ballot = None
    self._met = 0  # unreadable images, as the processes count them each
    setup.unreadable.tell(note['unreadable_examples'])

  def run(self, state: state_lib.TrainState) -> state_lib.TrainState:
    """Trains to the end.

    Raises:
      FloatingPointError: a metric is not finite, and `config.on_nonfinite`
        says to stop, or it has been gone back often enough.
      Preempted: see `pretrain`.
    """
    while True:
      self._journal = journal_lib.Journal(
          self._setup, self._workdir, int(state.step), self._note['seconds'],
          self._note['evaluation_due'], self._stopwatch)
      try:
        return self._run_from(state)
      except _NotFiniteError as error:
        found = error.with_traceback(None)  # whose frames hold the state
      finally:
        self._journal.close()
      state = self._go_back(found)

  def _run_from(self, state: state_lib.TrainState) -> state_lib.TrainState:
    """The steps from the state's on. The order of operations is a contract.

    Evaluate, save, take the next batch, step: a checkpoint holds what its
    evaluation saw, and no batch is taken before the save that precedes it.
    The host fetches the metrics of one step only after it has dispatched the
    next, so the devices never wait for it.
    """
    first_step, total_steps = int(state.step), self._setup.total_steps
    batches = self._setup.create_batches(
        first_step, self._note['skipped_batches'])
    state, pending = self._setup.layout.split(state), None
    for step in range(first_step, total_steps + 1):
      peers.advance(f'step {step}')
      is_new = step > first_step
      if self._must_stop():
        self._log(pending)
        self._stop(step, state, evaluation_due=is_new and self._is_due(
            step, self._config.evaluate_every_steps))
      if (is_new or self._note['evaluation_due']) and self._is_due(
          step, self._config.evaluate_every_steps):
        pending = self._log(pending)
        self._evaluate(step, state)
      if is_new and self._is_due(step, self._config.checkpoint_every_steps):
        pending = self._log(pending)
        self._save(step, state)
      if step == total_steps:
        break
      batch, votes = self._journal.take(batches), self._votes()
      with jax.transfer_guard('disallow'):
        state, metrics, totals = self._setup.p_train_step(state, batch, votes)
        self._journal.input_wait.started(totals)
        pending, previous = (step + 1, metrics, totals), pending
        self._log(previous)
      self._asked.at_once = False  # from now on there is something to save
    return self._setup.layout.whole(state)

  def _is_due(self, step: int, every: int) -> bool:
    return step % every == 0 or step == self._setup.total_steps

  def _votes(self) -> jax.Array:
    """What this process adds to what all must know, see `_count`."""
    votes = (self._asked.requested, self._setup.unreadable.count)
    if votes != self._cast:
      self._cast, self._ballot = votes, devices.ballot(votes)
    return self._ballot

  def _count(self, totals: np.ndarray) -> dict[str, float]:
    """Whether any process was asked to stop; images that cannot be read.

    Raises:
      ConfigError: the latter are too many of all, in all processes alike.
    """
    asked, met = totals.tolist()
    self._all_asked = self._all_asked or asked > 0
    found = self._note['unreadable_examples']
    if met != self._met:  # in several processes the same ones, perhaps
      self._met = met
      found = sorted({
          *found, *agreement.union(self._setup.unreadable.reasons)})
      self._note['unreadable_examples'] = found
      self._setup.unreadable.tell(found)
    return {'data/unreadable_images': len(found)} if found else {}

  def _must_stop(self) -> bool:
    """The same answer in all processes, at the same step."""
    if jax.process_count() == 1:
      return self._asked.requested
    return self._all_asked

  def _log(self, pending: tuple[int, Any, Any] | None) -> None:
    """Fetches a finished step's metrics; writes them where a row is due."""
    if pending is None:
      return
    step, *fetched = pending
    metrics, totals = jax.device_get(fetched)
    metrics = metrics_lib.to_floats(metrics) | self._count(totals)
    if not all(map(math.isfinite, metrics.values())):
      self._journal.write(step, metrics)
      raise _NotFiniteError(step, metrics)
    self._journal.advance(step)
    if self._is_due(step, self._config.log_every_steps):
      self._checkpoints.poll()
      self._journal.report(step, metrics)
      self._note['seconds'] = self._journal.seconds

  def _evaluate(self, step: int, state: state_lib.TrainState) -> None:
    """Periodic figures; the time they take is not the training's."""
    with self._journal.pause(), peers.at(f'the evaluation of step {step}'):
      try:
        found = dict(self._setup.evaluate(
            self._setup.layout.whole(state), self._check_asked))
      except _Interrupted:
        self._stop(step, state, evaluation_due=True)
      self._note['evaluation_due'] = False
      self._journal.evaluated(step, found)

  def _check_asked(self) -> None:
    """Called for every batch of an evaluation, by all processes alike."""
    if devices.any_process(self._asked.requested):
      raise _Interrupted

  def _save(self, step: int, state: state_lib.TrainState) -> None:
    with self._journal.pause(), peers.at(f'the save of step {step}'):
      self._journal.flush()  # rows before a checkpoint are not made again
      state = self._setup.layout.whole(state)
      if step == self._setup.total_steps:
        self._checkpoints.save_surely(
            step, state, self._note_of(step), lambda: self._asked.requested)
      else:
        self._checkpoints.save(step, state, self._note_of(step))

  def _note_of(self, step: int) -> dict[str, Any]:
    return self._note | {
        'examples_seen': step * self._config.batch_size,
        'wall_seconds': time.monotonic() - self._begin}

  def _stop(
      self, step: int, state: state_lib.TrainState, evaluation_due: bool
  ) -> None:
    """Saves this very step, in all processes, and raises `Preempted`."""
    self._note['evaluation_due'] |= evaluation_due
    with peers.at(f'the save of step {step}'):
      self._journal.flush()
      self._checkpoints.wait()
      if self._checkpoints.latest_step() != step:
        self._checkpoints.save(
            step, self._setup.layout.whole(state), self._note_of(step))
      is_saved = self._checkpoints.wait()
      devices.sync('stopped')  # none may leave while another still writes
    what = 'saved' if is_saved else 'not saved'
    raise stopping.Preempted(
        f'stopped after step {step}, {what}; run the same command again to go '
        'on')

  def _go_back(self, found: _NotFiniteError) -> state_lib.TrainState:
    """The last good state, where the config says to go on without a batch.

    Raises:
      FloatingPointError: where it does not, or it has done so too often.
    """
    skipped = self._note['skipped_batches']
    place = setup_lib.place_of(found.step - 1, skipped)
    what = (
        f'{", ".join(found.names)} became NaN or infinite in step '
        f'{found.step}, on {self._describe_batch(found, place)}')
    self._checkpoints.wait()
    good = self._checkpoints.latest_step()
    config = self._config
    if config.on_nonfinite == 'stop' or len(skipped) >= config.max_rewinds:
      often = f', after {len(skipped)} rewinds' if skipped else ''
      kept = (
          f'the checkpoint of step {good} is kept' if good is not None else
          'there is no checkpoint yet')
      raise FloatingPointError(
          f'{what}{often}; {kept}. Lower config.base_learning_rate or lengthen '
          'config.warmup_epochs, then run again; --config.on_nonfinite=rewind '
          'goes on without that batch')
    skipped.append(place)
    self._journal.say(
        f'WARNING: {what}; going back to step {good or 0} to leave that batch '
        f'out, rewind {len(skipped)} of at most {config.max_rewinds}')
    return resume.last_good_state(self._setup, self._checkpoints)

  def _describe_batch(self, found: _NotFiniteError, place: int) -> str:
    """Names the batch's examples, all of them in a file."""
    ids = self._setup.example_ids(place).tolist()
    file = epath.Path(self._workdir) / 'nonfinite' / f'step_{found.step}.json'
    if not jax.process_index():
      with contextlib.suppress(*remote.FILE_ERRORS):
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({
            'step': found.step, 'example_ids': ids,
            'metrics': {k: str(v) for k, v in found.metrics.items()}}) + '\n')
    first = ', '.join(map(str, ids[:4]))
    return f'examples {first}, ... ({len(ids)} in all, in {file})'


class _Interrupted(Exception):
  """An evaluation that was left off."""

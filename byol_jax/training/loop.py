"""The pretraining loop: evaluate, save, take the next batch, step."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import json
import math
import pathlib
import time
from typing import Any

from flax import linen as nn
import jax
import ml_collections

from byol_jax import config as config_lib
from byol_jax.data import pipeline
from byol_jax.data import preview_grid
from byol_jax.evaluation import collapse
from byol_jax.evaluation import final
from byol_jax.evaluation import periodic
from byol_jax.evaluation import subject
from byol_jax.networks import network as network_lib
from byol_jax.training import checkpoint
from byol_jax.training import devices
from byol_jax.training import metrics as metrics_lib
from byol_jax.training import optimizers
from byol_jax.training import schedules
from byol_jax.training import start
from byol_jax.training import state as state_lib
from byol_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True)
class Setup:
  """What a run is made of, and never changes while it runs."""

  config: ml_collections.ConfigDict
  sources: subject.Sources
  final_protocols: Sequence[str]  # of the config, those that the data allow
  network: network_lib.Network
  p_train_step: Callable[..., Any]
  create_state: Callable[[], state_lib.TrainState]
  create_abstract_state: Callable[[], state_lib.TrainState]  # shapes, types
  create_batches: Callable[[int], Iterator[Any]]  # from a step on
  # Names with scalars or distributions.
  evaluate: Callable[[state_lib.TrainState], Iterable[tuple[str, Any]]]
  total_steps: int


def set_up(
    config: ml_collections.ConfigDict, encoder: nn.Module | None = None
) -> Setup:
  """Opens the data and builds the step; nothing is compiled yet.

  Raises:
    ConfigError: for whatever can be known to be wrong by now.
  """
  config_lib.validate(
      config, num_devices=jax.device_count(),
      custom_encoder=encoder is not None)
  sources = subject.open_sources(config)
  train_source = sources.train
  # Found out now, not after days of training.
  final_protocols = final.choose_protocols(config, sources)
  total_steps, warmup_steps = config_lib.run_length(
      config, train_source.num_examples)
  learning_rate_fn = schedules.make_learning_rate_fn(
      base_learning_rate=config.base_learning_rate,
      batch_size=config.batch_size, warmup_steps=warmup_steps,
      total_steps=total_steps)
  tx = optimizers.create_optimizer(config, learning_rate_fn)
  network = network_lib.create_network(
      config, train_source.num_classes, encoder, devices.AXIS_NAME)
  train_step = step_lib.make_train_step(
      config, network, tx, learning_rate_fn, total_steps=total_steps)

  def create_batches(first_step: int) -> Iterator[Any]:
    dataset = pipeline.create_train_dataset(
        train_source, config, start_step=first_step, total_steps=total_steps,
        process_index=jax.process_index(), process_count=jax.process_count())
    return devices.prefetch(dataset.as_numpy_iterator())

  return Setup(
      config=config, sources=sources, final_protocols=final_protocols,
      network=network, p_train_step=devices.pmap_train_step(train_step),
      create_state=start.make_create_first_state(
          network, tx, config, train_source),
      create_abstract_state=functools.partial(
          jax.eval_shape,
          state_lib.make_create_train_state(network, tx, config)),
      create_batches=create_batches,
      evaluate=periodic.Evaluator(
          config, network, train_source, sources.test).run,
      total_steps=total_steps)


def pretrain(
    config: ml_collections.ConfigDict,
    workdir: str,
    encoder: nn.Module | None = None,
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

  Raises:
    ConfigError: for a user's slip.
    FloatingPointError: when a metric is no longer finite.
  """
  begin = time.monotonic()
  config = config.copy_and_resolve_references()
  if encoder is not None:
    config.encoder = type(encoder).__name__
  path = pathlib.Path(workdir)
  path.mkdir(parents=True, exist_ok=True)
  setup = set_up(config, encoder)
  checkpoints = checkpoint.Checkpoints(workdir, config.checkpoints_to_keep)
  try:
    state, note = _first_state(setup, checkpoints, workdir, encoder)
    begin -= note['wall_seconds']
    (path / 'config.json').write_text(
        json.dumps(config_lib.to_dict(config), indent=2) + '\n')
    state = Loop(setup, checkpoints, workdir, note, begin).run(state)
  finally:
    checkpoints.close()
  final.evaluate_and_report(
      config, setup.network, state, setup.create_state(),
      setup.sources, setup.final_protocols, workdir, begin)


def _first_state(
    setup: Setup, checkpoints: checkpoint.Checkpoints, workdir: str,
    encoder: nn.Module | None,
) -> tuple[state_lib.TrainState, dict[str, Any]]:
  """The state to start from, and the note of the run so far.

  In this order: (1) this workdir's newest checkpoint, (2) the weights of
  `config.init_from`, (3) random.
  """
  config = setup.config
  note = {
      'config': config_lib.to_dict(config),
      'num_classes': setup.sources.train.num_classes,
      'custom_encoder': config.encoder if encoder is not None else None,
      'examples_seen': 0, 'seconds': 0.0, 'wall_seconds': 0.0}
  step = checkpoints.latest_step()
  if step is None:
    state = setup.create_state()
    if config.init_from:
      state = checkpoint.load_weights(state, config, encoder)
    return devices.replicate(state), note
  saved = checkpoints.restore_run(step)
  checkpoint.check_same_network(saved, note, workdir)
  for line in config_lib.differences(
      config_lib.from_dict(saved['config']), config):
    print(f'note: the config changed since the last save: {line}')
  like = setup.create_abstract_state()
  print(f'continuing {workdir} at step {step}')
  return checkpoints.restore_state(step, like), note | {
      k: saved[k] for k in ('examples_seen', 'seconds', 'wall_seconds')}


class Loop:
  """The run between its first and its last step."""

  def __init__(
      self, setup: Setup, checkpoints: checkpoint.Checkpoints, workdir: str,
      note: dict[str, Any], begin: float):
    """Nothing is opened yet.

    Args:
      setup: of the run.
      checkpoints: of the workdir.
      workdir: for everything else that is written.
      note: of the run so far; saved with the state.
      begin: when the run began, on the monotonic clock, had it not stopped.
    """
    self._setup = setup
    self._config = setup.config
    self._checkpoints = checkpoints
    self._workdir = workdir
    self._note = note
    self._begin = begin

  def run(self, state: state_lib.TrainState) -> state_lib.TrainState:
    """Trains to the end. The order of operations is a contract.

    Evaluate, save, take the next batch, step: a checkpoint holds what its
    evaluation saw, and no batch is taken before the save that precedes it.
    The host fetches the metrics of one step only after it has dispatched the
    next, so the devices never wait for it.
    """
    first_step = int(state.step)
    total_steps = self._setup.total_steps
    self._start(first_step)
    pending = None
    for step in range(first_step, total_steps + 1):
      if step > first_step:
        if self._is_due(step, self._config.evaluate_every_steps):
          pending = self._log(pending)
          self._evaluate(step, state)
        if self._is_due(step, self._config.checkpoint_every_steps):
          pending = self._log(pending)
          self._save(step, state)
      if step == total_steps:
        break
      batch = next(self._batches)
      with jax.transfer_guard('disallow'):
        state, metrics = self._setup.p_train_step(state, batch)
        pending, previous = (step + 1, metrics), pending
        self._log(previous)
    self._progress.close()
    self._writer.close()
    return state

  def _start(self, first_step: int) -> None:
    """Opens the data at its position, the outputs, and the clock."""
    setup = self._setup
    self._progress = metrics_lib.Progress(first_step, setup.total_steps)
    self._writer = metrics_lib.MetricWriter(self._workdir, first_step)
    self._batches = setup.create_batches(first_step)
    _, warmup_steps = config_lib.run_length(
        self._config, setup.sources.train.num_examples)
    self._watch = collapse.Watch(
        self._config,
        collapse.quiet_steps(warmup_steps, setup.total_steps),
        jax.device_count())
    self._window = None  # opens when the first step, and its compile, is done
    for line in self._describe():
      self._progress.say(line)
    if not first_step:
      views = preview_grid.create_preview(setup.sources.train, self._config)
      preview_grid.write_png(views, f'{self._workdir}/views.png')
      self._writer.write_image(0, 'views', views)

  def _describe(self) -> Iterator[str]:
    """What is about to run, for the head of the terminal."""
    setup, config = self._setup, self._config
    source = setup.sources.train
    classes = f'{source.num_classes} classes'
    if not source.has_labels:
      classes = 'no labels, so the online probe and kNN are off'
    elif setup.sources.test is None:
      classes += '; no test split, so kNN and the probe are not tested'
    elif not setup.sources.test.has_labels:
      classes += '; its test split has no labels, so nothing is tested'
    yield f'data: {source.name}, {source.num_examples} images, {classes}'
    yield (
        f'network: {config.encoder}; {config.target} target; '
        f'{config.optimizer}; batch {config.batch_size} over '
        f'{jax.device_count()} {jax.devices()[0].device_kind} device(s)')
    yield (
        f'run: {setup.total_steps} steps, '
        f'{setup.total_steps * config.batch_size / source.num_examples:.2f} '
        f'epochs, into {self._workdir}; compiling the step')

  def _is_due(self, step: int, every: int) -> bool:
    return step % every == 0 or step == self._setup.total_steps

  def _log(self, pending: tuple[int, Any] | None) -> None:
    """Fetches a finished step's metrics; writes them where a row is due."""
    if pending is None:
      return
    step, metrics = pending
    metrics = metrics_lib.to_floats(jax.device_get(metrics))
    bad = sorted(k for k, v in metrics.items() if not math.isfinite(v))
    if bad:
      self._stop_on_nonfinite(step, bad, metrics)
    self._progress.advance(step)
    if self._is_due(step, self._config.log_every_steps):
      self._report(step, metrics)
    elif self._window is None:
      self._window = (step, time.monotonic())

  def _report(self, step: int, metrics: dict[str, float]) -> None:
    """Writes a row and says where the run stands."""
    batch_size = self._config.batch_size
    now = time.monotonic()
    first, since = self._window or (step, now)
    self._window = (step, now)
    self._note['seconds'] += now - since
    rate = (step - first) * batch_size / max(now - since, 1e-9)
    if step > first:
      metrics |= {'perf/images_per_second': rate}
    self._writer.write(step, metrics | {
        'perf/seconds': self._note['seconds']})
    self._progress.report(
        step,
        epoch=step * batch_size / self._setup.sources.train.num_examples,
        loss=metrics['train/loss'], images_per_second=rate,
        seconds_left=(self._setup.total_steps - step) * batch_size
        / max(rate, 1e-9))
    self._watch_for_collapse(step, metrics)

  def _watch_for_collapse(self, step: int, metrics: dict[str, float]) -> None:
    for line in self._watch.look(step, metrics):
      self._progress.say(line)

  def _stop_on_nonfinite(
      self, step: int, names: list[str], metrics: dict[str, float]) -> None:
    self._writer.write(step, metrics)
    self._writer.close()
    self._progress.close()
    good = self._checkpoints.latest_step()
    kept = (
        f'the checkpoint of step {good} is kept' if good is not None else
        'there is no checkpoint yet')
    raise FloatingPointError(
        f'{", ".join(names)} became NaN or infinite in step {step}; {kept}. '
        'Lower config.base_learning_rate or lengthen config.warmup_epochs, '
        'then run again')

  def _evaluate(self, step: int, state: state_lib.TrainState) -> None:
    """Periodic figures; the time they take is not the training's."""
    begin = time.monotonic()
    found = dict(self._setup.evaluate(state))
    distributions = {
        name: value for name, value in found.items()
        if isinstance(value, metrics_lib.Distribution)}
    figures = {k: v for k, v in found.items() if k not in distributions}
    self._writer.write(step, figures)
    self._writer.write_distributions(step, distributions)
    knn = self._config.knn
    settings = (
        f'  (k={knn.k}, temperature={knn.temperature:g}, of at most '
        f'{knn.max_train_examples} images)')
    self._progress.say(f'step {step}  ' + '  '.join(
        f'{name} {value:.2f}' for name, value in figures.items()
        if not name.startswith('pairs/')) + (
            settings if 'knn/test_top1' in figures else ''))
    self._watch_for_collapse(step, figures)
    self._pause(begin)

  def _save(self, step: int, state: state_lib.TrainState) -> None:
    begin = time.monotonic()
    note = self._note | {
        'examples_seen': step * self._config.batch_size,
        'wall_seconds': begin - self._begin}
    self._checkpoints.save(step, state, note)
    self._pause(begin)

  def _pause(self, begin: float) -> None:
    """Takes the time since `begin` out of the current window."""
    first, since = self._window
    self._window = (first, since + time.monotonic() - begin)

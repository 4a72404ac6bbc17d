"""What a run writes and says while it trains; process 0 does it for all."""

from collections.abc import Iterator
import contextlib
import time
from typing import Any

from absl import logging
import jax

from byol_jax import failures
from byol_jax.augmentation import photometric
from byol_jax.data import preview_grid
from byol_jax.data import program_cache
from byol_jax.data import remote
from byol_jax.evaluation import collapse
from byol_jax.training import devices
from byol_jax.training import first_step as first_step_lib
from byol_jax.training import input_wait
from byol_jax.training import metrics as metrics_lib
from byol_jax.training import setup as setup_lib
from byol_jax.training import sharding

_SHOWN_IMAGES = 8


def _describe_layout(layout: sharding.Layout) -> str:
  if isinstance(layout, sharding.Sharded):
    return (
        f'{layout.num_split} large arrays in shares over '
        f'{jax.local_device_count()} devices')
  return (
      'all of it on each device: there is but one in this process, or no '
      'kernel is large enough for config.shard_state and divides over them')


class Journal:
  """metrics.jsonl, distributions.jsonl, TensorBoard, views.png, terminal."""

  def __init__(
      self, setup: setup_lib.Setup, workdir: str, first_step: int,
      seconds: float, evaluation_due: bool = False,
      stopwatch: first_step_lib.Stopwatch | None = None):
    """Goes on at `first_step`; what is there of later steps is dropped.

    Args:
      setup: of the run.
      workdir: where the files are.
      first_step: that the run stands at.
      seconds: of training so far.
      evaluation_due: the evaluation at this step is to come, perhaps again.
      stopwatch: stopped at the first step, unless it was before; None: the
        time to it is not asked for.
    """
    self._setup = setup
    self._config = setup.config
    self._workdir = workdir
    self._is_silent = bool(jax.process_index())
    self.seconds = seconds
    self._window = None  # opens when the first step, and its compile, is done
    self._stopwatch = stopwatch
    self._views_due = not first_step
    self._shown = None  # rows of the first batch, while its views are due
    self._figures_once = {}  # for the next row alone
    self.input_wait = input_wait.InputWait()
    self._seconds_waited = 0.0  # since this was made, as what follows
    self._seconds_here = 0.0
    self._is_advised = False
    if self._is_silent:
      return
    self._progress = metrics_lib.Progress(first_step, setup.total_steps)
    self._writer = metrics_lib.MetricWriter(
        workdir, first_step, evaluation_due)
    self._watch = collapse.Watch(
        self._config,
        collapse.quiet_steps(setup.warmup_steps, setup.total_steps),
        jax.device_count())
    for line in self._describe():
      self.say(line)

  def _describe(self) -> Iterator[str]:
    """What is about to run, for the head of the terminal."""
    setup, config = self._setup, self._config
    source = setup.sources.train
    classes = f'{source.num_classes} classes'
    if not source.has_labels:
      classes = 'no labels, so the online probe and kNN are off'
    elif source.is_multi_label:
      classes += ', several an image, so the online probe and kNN are off'
    elif setup.sources.test is None:
      classes += '; no test split, so kNN and the probe are not tested'
    elif not setup.sources.test.has_labels:
      classes += '; its test split has no labels, so nothing is tested'
    processes = (
        f' of {jax.process_count()} processes'
        if jax.process_count() > 1 else '')
    yield f'data: {source.name}, {source.num_examples} images, {classes}'
    yield (
        f'network: {config.encoder}; {config.target} target; '
        f'{config.optimizer}; batch {config.batch_size} over '
        f'{jax.device_count()} {jax.devices()[0].device_kind} device(s)'
        f'{processes}')
    if config.shard_state:
      yield f'state: {_describe_layout(setup.layout)}'
    yield (
        f'run: {setup.total_steps} steps, '
        f'{setup.total_steps * config.batch_size / source.num_examples:.2f} '
        f'epochs, into {self._workdir}; compiling the step')

  def _show_views(self) -> None:
    """Those that the first step has seen."""
    batch, self._shown = self._shown, None
    if self._config.augment.device:
      make_views = jax.jit(photometric.make_views_fn(self._config))
      batch = jax.device_get(make_views(jax.device_put(batch)))
    try:
      views = preview_grid.draw_batch(self._setup.sources.train, batch)
      preview_grid.write_png(views, f'{self._workdir}/views.png')
    except remote.FILE_ERRORS as error:  # a picture is not worth a run
      logging.error('views.png was not written (%s)', failures.reason(error))
      return
    self._writer.write_image(0, 'views', views)

  def take(self, batches: Iterator[Any]) -> Any:
    """The next batch; counts the wait, and keeps what is shown of the first."""
    batch = self.input_wait.take(batches)
    if self._views_due and not self._is_silent and self._shown is None:
      self._shown = devices.first_rows(batch, _SHOWN_IMAGES)
    return batch

  def say(self, line: str) -> None:
    """Prints a line without breaking the live one."""
    if not self._is_silent:
      self._progress.say(line)

  def advance(self, step: int) -> None:
    """Notes that a step is done; the clock starts after the first one."""
    is_first = self._window is None
    if is_first:
      self._window = (step, time.monotonic())
      self.input_wait.take_seconds()
    if not self._is_silent:
      self._progress.advance(step)
      if is_first:
        with self.pause():
          self._begin()

  def _begin(self) -> None:
    """What is said, shown and kept once the run is under way."""
    program_cache.save()  # before anything stops the run
    if self._stopwatch is not None and self._stopwatch.seconds is None:
      self._stopwatch.stop()
      self.say(str(self._stopwatch))
      self._figures_once = self._stopwatch.figures()
    if self._views_due:  # now, for they take seconds
      self._views_due = False
      self._show_views()

  def report(self, step: int, metrics: dict[str, float]) -> None:
    """Writes a row and says where the run stands."""
    batch_size = self._config.batch_size
    now = time.monotonic()
    first, since = self._window or (step, now)
    self._window = (step, now)
    self.seconds += now - since
    waited = self.input_wait.take_seconds()
    if self._is_silent:
      return
    rate = (step - first) * batch_size / max(now - since, 1e-9)
    if step > first:
      share = min(waited / (now - since), 1.0)
      metrics |= {'perf/images_per_second': rate,
                  'perf/input_wait_share': share}
      self._advise(waited, now - since)
    self._writer.write(
        step, metrics | {'perf/seconds': self.seconds} | self._figures_once)
    self._figures_once = {}
    self._progress.report(
        step,
        epoch=step * batch_size / self._setup.sources.train.num_examples,
        loss=metrics['train/loss'], images_per_second=rate,
        seconds_left=(self._setup.total_steps - step) * batch_size
        / max(rate, 1e-9))
    self._watch_for_collapse(step, metrics)

  def _advise(self, waited: float, seconds: float) -> None:
    """Says once that the input is too slow; not of a run of moments."""
    self._seconds_waited += waited
    self._seconds_here += seconds
    share = self._seconds_waited / self._seconds_here
    if (share > input_wait.WORTH_A_LINE and not self._is_advised
        and self._seconds_here > input_wait.SECONDS_TO_JUDGE):
      self._is_advised = True
      self.say(input_wait.advice(share, self._config.augment.device))

  def write(self, step: int, metrics: dict[str, float]) -> None:
    """Writes a row and says nothing."""
    if not self._is_silent:
      self._writer.write(step, metrics)

  def flush(self) -> None:
    """Tries again to write the rows that could not be written."""
    if not self._is_silent:
      self._writer.flush()

  def evaluated(self, step: int, found: dict[str, Any]) -> None:
    """Writes and says what the periodic evaluation has found."""
    if self._is_silent:
      return
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
    self.say(f'step {step}  ' + '  '.join(
        f'{name} {value:.2f}' for name, value in figures.items()
        if not name.startswith('pairs/')) + (
            settings if 'knn/test_top1' in figures else ''))
    self._watch_for_collapse(step, figures)

  def _watch_for_collapse(self, step: int, metrics: dict[str, float]) -> None:
    for line in self._watch.look(step, metrics):
      self.say(line)

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Takes the time of what is not training out of the current window."""
    begin = time.monotonic()
    yield
    if self._window is not None:
      first, since = self._window
      self._window = (first, since + time.monotonic() - begin)

  def close(self) -> None:
    """Ends the live line, and the files."""
    self.input_wait.close()
    if not self._is_silent:
      self._progress.close()
      self._writer.close()

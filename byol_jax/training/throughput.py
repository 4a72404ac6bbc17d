"""Images per second of the input, the step, and the whole loop.

Figures are medians over windows of some steps.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import io
import itertools
import json
import pathlib
import platform
import statistics
import tempfile
import time
from typing import Any

import flax
import jax
import numpy as np

from byol_jax.augmentation import draws as columns
from byol_jax.data import pipeline
from byol_jax.planning import ledger
from byol_jax.quiet_tensorflow import tf
from byol_jax.training import checkpoint
from byol_jax.training import cost
from byol_jax.training import devices
from byol_jax.training import loop
from byol_jax.training import resume
from byol_jax.training import setup as setup_lib
from byol_jax.training import step as step_lib


def measure_input(
    setup: setup_lib.Setup, windows: int, steps: int) -> dict[str, Any]:
  """Images per second, of two views each, that the host makes ready."""
  dataset = pipeline.create_train_dataset(
      setup.sources.train, setup.config, start_step=0,
      total_steps=(windows + 1) * steps, on_device=setup.config.augment.device)
  batches = dataset.as_numpy_iterator()

  def run() -> None:
    for _ in range(steps):
      next(batches)

  run()  # fills the buffers
  return _rates('input', [_timed(run) for _ in range(windows)], setup, steps)


def measure_step(
    setup: setup_lib.Setup, windows: int, steps: int) -> dict[str, Any]:
  """Images per second of the step alone, and its ledger."""
  config = setup.config
  compiled, *arguments = compile_step(setup)
  program = ledger.read_program(compiled, turns=config.accumulation_steps)
  run = _step_runner(compiled, *arguments, steps)
  run()
  return _rates(
      'step', [_timed(run) for _ in range(windows)], setup, steps,
  ) | ledger.describe(
      program, flops_per_image=cost.step_flops(setup.network, config),
      images=config.batch_size // jax.device_count())


def measure_update(
    setup: setup_lib.Setup, windows: int, steps: int) -> dict[str, Any]:
  """The optimizer and the target's average alone, in turn with whole steps."""
  config = setup.config

  def update(state: Any, tau: jax.Array, grads: Any) -> Any:
    return step_lib.apply_gradients(
        state, setup.layout.unite(grads).online_params, tx=setup.tx,
        tau=tau[0], target=config.target, layout=setup.layout)

  axes = setup.layout.axes
  p_update = devices.pmap_train_step(
      setup.layout.map(update), (axes,), axes)
  # Gradients are another state's parameters: this one is donated.
  state, grads = _first_state(setup), _first_state(setup)
  taus = devices.shard(
      np.full(jax.local_device_count(), config.base_tau, np.float32))

  def run_update() -> None:
    nonlocal state
    for _ in range(steps):
      state, metrics = p_update(state, taus, grads)
    jax.block_until_ready((state, metrics))

  run_step = make_step_runner(setup, steps)
  run_update()  # compiles
  run_step()
  pairs = [(_timed(run_update), _timed(run_step)) for _ in range(windows)]
  return {
      'update_milliseconds':
          1e3 * statistics.median(a for a, _ in pairs) / steps,
      'step_milliseconds':
          1e3 * statistics.median(b for _, b in pairs) / steps,
      'update_share': statistics.median(a / b for a, b in pairs)}


def measure_loop(
    setup: setup_lib.Setup, windows: int, steps: int) -> dict[str, Any]:
  """The loop and the step in turn; `loop_over_step` is the ratio of times."""
  run_step = make_step_runner(setup, steps)
  run_step()
  step_secs, loop_secs = [], []
  for _ in range(windows):
    step_secs.append(_timed(run_step))
    loop_secs.append(_loop_secs(setup, steps))
  ratios = [a / b for a, b in zip(loop_secs, step_secs, strict=True)]
  return (
      _rates('step', step_secs, setup, steps)
      | _rates('loop', loop_secs, setup, steps)
      | {'loop_over_step': statistics.median(ratios)})


def measure_save(
    setup: setup_lib.Setup, windows: int, steps: int) -> dict[str, Any]:
  """What an asynchronous save costs the steps beside it, in turn with none.

  The window with a save also waits for its end, so nothing of it is missed.
  """
  numbers = itertools.count(1)
  state = _first_state(setup)
  batch = devices.shard(_synthetic_batch(setup))
  votes = devices.ballot((False, 0))
  with tempfile.TemporaryDirectory() as workdir:
    checkpoints = checkpoint.Checkpoints(workdir)

    def run(save: bool) -> None:
      nonlocal state
      metrics = None
      for step in range(steps):
        previous = metrics
        state, *metrics = setup.p_train_step(state, batch, votes)
        jax.block_until_ready(previous)  # As the loop does.
        if save and not step:
          checkpoints.save(
              next(numbers), setup.layout.whole(state),
              resume.first_note(setup))
      jax.block_until_ready((state, metrics))
      checkpoints.wait()

    run(True)  # compiles
    pairs = [(_timed(lambda: run(False)), _timed(lambda: run(True)))
             for _ in range(windows)]
    checkpoints.close()
  step_secs = statistics.median(without for without, _ in pairs) / steps
  save_secs = statistics.median(with_save - without
                                for without, with_save in pairs)
  interval = setup.config.checkpoint_every_steps
  return {
      'save_seconds': save_secs, 'step_seconds': step_secs,
      'steps_between_saves': interval,
      'save_share': save_secs / (interval * step_secs),
      'state_megabytes': sum(
          x.nbytes for x in jax.tree.leaves(setup.create_state())) / 1e6}


def make_step_runner(
    setup: setup_lib.Setup, steps: int) -> Callable[[], None]:
  """What takes some steps on one batch, and waits for them."""
  return _step_runner(*compile_step(setup), steps)


def compile_step(setup: setup_lib.Setup) -> tuple[jax.stages.Compiled, ...]:
  """The step, compiled, and what it is called on."""
  arguments = (
      _first_state(setup),
      devices.shard(_synthetic_batch(setup)), devices.ballot((False, 0)))
  return setup.p_train_step.lower(*arguments).compile(), *arguments


def _step_runner(
    p_step: Callable[..., Any], state: Any, batch: Any, votes: jax.Array,
    steps: int) -> Callable[[], None]:

  def run() -> None:
    nonlocal state
    metrics = None
    for _ in range(steps):
      previous = metrics
      state, metrics, _ = p_step(state, batch, votes)
      jax.block_until_ready(previous)  # As the loop does.
    jax.block_until_ready((state, metrics))

  return run


def _loop_secs(setup: setup_lib.Setup, steps: int) -> float:
  """Seconds for `steps` of the loop, by the loop's own clock."""
  config = setup.config.copy_and_resolve_references()
  config.log_every_steps = steps
  # The first window fills the queue; the second is measured.
  setup = dataclasses.replace(
      setup, config=config, total_steps=2 * steps, evaluate=lambda *_: (),
      create_batches=lambda *_: devices.prefetch(
          _synthetic_batches(setup, 2 * steps)))
  with tempfile.TemporaryDirectory() as workdir:
    checkpoints = checkpoint.Checkpoints(workdir)
    note = resume.first_note(setup)
    with contextlib.redirect_stdout(io.StringIO()):
      loop.Loop(setup, checkpoints, workdir, note, time.monotonic()).run(
          devices.replicate(setup.create_state()))
    checkpoints.close()
    lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if 'perf/seconds' in row]
  return rows[-1]['perf/seconds'] - rows[-2]['perf/seconds']


def _first_state(setup: setup_lib.Setup) -> Any:
  """As the step takes it."""
  return setup.layout.split(devices.replicate(setup.create_state()))


def _synthetic_batch(setup: setup_lib.Setup) -> dict[str, Any]:
  config, rng = setup.config, np.random.default_rng(0)
  size, count = config.image_size, config.batch_size
  batch = {'index': np.arange(count, dtype=np.int32)}
  if config.augment.device:
    batch['crops'] = tuple(
        rng.integers(0, 256, (2, count, 3, size, size), np.uint8))
    batch['draws'] = tuple(rng.random((2, count, columns.COUNT), np.float32))
  else:
    batch['views'] = tuple(
        rng.random((2, count, size, size, 3), np.float32))
  source = setup.sources.train
  if source.has_labels:
    shape = (count, source.num_classes) if source.is_multi_label else count
    batch['label'] = np.zeros(shape, np.int32)
  return batch


def _synthetic_batches(
    setup: setup_lib.Setup, count: int) -> Iterator[dict[str, Any]]:
  return itertools.repeat(_synthetic_batch(setup), count)


def _timed(run: Callable[[], None]) -> float:
  begin = time.perf_counter()
  run()
  return time.perf_counter() - begin


def _rates(
    name: str, secs: list[float], setup: setup_lib.Setup, steps: int
) -> dict[str, Any]:
  rates = [steps * setup.config.batch_size / s for s in secs]
  return {
      f'{name}_images_per_second': statistics.median(rates),
      f'{name}_windows': rates}


def describe_machine() -> dict[str, Any]:
  """What the figures hold for."""
  return {
      'device': jax.devices()[0].device_kind,
      'num_devices': jax.device_count(), 'python': platform.python_version(),
      'jax': jax.__version__, 'flax': flax.__version__,
      'tensorflow': tf.__version__}


MEASURES = {
    'input': measure_input, 'step': measure_step, 'update': measure_update,
    'loop': measure_loop, 'save': measure_save}

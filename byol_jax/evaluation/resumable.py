"""Steps that are saved as they go, and go on where they were cut short."""

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from absl import logging
import jax

from byol_jax import peers
from byol_jax.training import checkpoint
from byol_jax.training import devices

Batch = dict[str, Any]
# Maps the first step to batches from there on.
MakeBatches = Callable[[int], Iterator[Batch]]


def run_steps(
    p_step: Callable[[Any, Batch], tuple[Any, jax.Array]], state: Any,
    make_batches: MakeBatches, *, total_steps: int, what: str,
    directory: str | None = None, save_every_steps: int = 1000,
) -> Any:
  """Takes `total_steps`, some of them perhaps in an earlier run.

  Args:
    p_step: mapped over the devices, takes the state's memory and returns the
      next one and a loss f32[].
    state: to start from.
    make_batches: batches of this process, [b, ...] with b a multiple of its
      devices.
    total_steps: updates.
    what: is trained, for the lines that show progress.
    directory: where the state is saved and, cut short, found again; removed at
      the end. None: nowhere.
    save_every_steps: there.

  Returns:
    The state after the last step, on the host.
  """
  saved = (
      checkpoint.Checkpoints(directory, is_ours=True) if directory else None)
  try:
    restored = saved and saved.restore_newest(lambda _: state)
    first = restored.step if restored else 0
    state = restored.state if restored else devices.replicate(state)
    batches = devices.prefetch(make_batches(first))
    loss = None
    for step in range(first + 1, total_steps + 1):
      peers.advance(f'{what}, step {step}')
      previous = loss
      state, loss = p_step(state, next(batches))
      # One step ahead of the devices is enough. Of dozens, those of a CPU would
      # wait for each other in different ones, for ever.
      jax.block_until_ready(previous)
      if step % max(total_steps // 10, 1) == 0:
        logging.info('%s: step %d of %d, loss %.3f', what, step,
                     total_steps, float(loss))
      if saved and step % save_every_steps == 0 and step < total_steps:
        saved.save(step, state, {})
  finally:
    if saved:
      saved.close()
  devices.sync('fitted')
  if saved and not jax.process_index():
    saved.directory.rmtree()  # A sweep makes many.
  return jax.device_get(state)

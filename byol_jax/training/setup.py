"""What a run is made of, put together before anything is compiled."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import ml_collections
import numpy as np
import optax

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.data import pipeline
from byol_jax.data import unreadable
from byol_jax.evaluation import final
from byol_jax.evaluation import periodic
from byol_jax.evaluation import subject
from byol_jax.networks import network as network_lib
from byol_jax.training import devices
from byol_jax.training import optimizers
from byol_jax.training import schedules
from byol_jax.training import sharding
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
  encoder: nn.Module | None  # the user's own, if it is that
  tx: optax.GradientTransformation
  layout: sharding.Layout  # of the state that a step takes
  p_train_step: Callable[..., Any]
  create_state: Callable[[], state_lib.TrainState]
  create_abstract_state: Callable[[], state_lib.TrainState]  # shapes, types
  # From a step on, without the batches of some places in the run's order.
  create_batches: Callable[..., Iterator[Any]]
  unreadable: unreadable.Watch  # of what this process read
  example_ids: Callable[[int], np.ndarray]  # of the batch at such a place
  # Names with scalars or distributions; the second argument says, for every
  # batch, whether to leave off by raising.
  evaluate: Callable[..., Iterable[tuple[str, Any]]]
  total_steps: int
  warmup_steps: int


def set_up(
    config: ml_collections.ConfigDict, encoder: nn.Module | None = None
) -> Setup:
  """Opens the data and builds the step; nothing is compiled yet.

  Raises:
    ConfigError: for whatever can be known to be wrong by now.
  """
  config_rules.validate(
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
  network = network_lib.create_network(
      config, train_source.num_single_classes, encoder, devices.AXIS_NAME)
  create_abstract_state = functools.partial(
      jax.eval_shape, state_lib.make_create_train_state(
          network, optimizers.create_optimizer(config, learning_rate_fn),
          config))
  layout = sharding.create_layout(
      config, network, create_abstract_state, axis_name=devices.AXIS_NAME,
      num_devices=jax.device_count(), per_host=jax.local_device_count())
  tx = optimizers.create_optimizer(config, learning_rate_fn, layout.norms)
  train_step = step_lib.make_train_step(
      config, network, tx, learning_rate_fn, total_steps=total_steps,
      layout=layout)

  watch = unreadable.Watch(train_source, config.max_bad_image_share)

  def create_batches(
      first_step: int, skipped: Sequence[int] = ()) -> Iterator[Any]:
    first = place_of(first_step, skipped)
    batches = watch.batches(functools.partial(
        pipeline.create_train_dataset, train_source, config,
        total_steps=total_steps + len(skipped),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        on_device=config.augment.device), first)
    return devices.prefetch(
        batch for place, batch in enumerate(batches, first)
        if place not in skipped)

  return Setup(
      config=config, sources=sources, final_protocols=final_protocols,
      network=network, encoder=encoder, tx=tx, layout=layout,
      p_train_step=devices.pmap_voting_step(
          train_step, state_axes=layout.axes),
      create_state=start.make_create_first_state(
          network, tx, config, train_source),
      create_abstract_state=create_abstract_state,
      create_batches=create_batches, unreadable=watch,
      example_ids=functools.partial(
          pipeline.example_ids, train_source, config),
      evaluate=periodic.Evaluator(
          config, network, train_source, sources.test).run,
      total_steps=total_steps, warmup_steps=warmup_steps)


def place_of(step: int, skipped: Sequence[int]) -> int:
  """Where, in the run's order of batches, that of a step is.

  Args:
    step: 0-based.
    skipped: places whose batches are left out.
  """
  for place in sorted(skipped):
    if place <= step:
      step += 1
  return step

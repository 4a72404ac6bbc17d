"""Compiles the real step for a slice that is not there.

Call `libtpu.prepare` before this is imported.
"""

from collections.abc import Sequence
import time
from typing import Any

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import ml_collections
import numpy as np

from byol_jax.augmentation import draws as columns
from byol_jax.config import ConfigError
from byol_jax.networks import convolution
from byol_jax.networks import network as network_lib
from byol_jax.planning import ledger
from byol_jax.planning import memory as memory_lib
from byol_jax.planning import programs
from byol_jax.planning import slices
from byol_jax.training import cost
from byol_jax.training import devices
from byol_jax.training import optimizers
from byol_jax.training import schedules
from byol_jax.training import sharding
from byol_jax.training import state as state_lib
from byol_jax.training import step as step_lib

# What the loop lets processes vote on at each step: `training.loop._votes`.
_VOTES = 2


def count(
    config: ml_collections.ConfigDict, num_classes: int | None
) -> programs.Counts:
  """What any machine must compute and hold for this step; compiles nothing."""
  network, tx, _ = _parts(config, num_classes, (0, 1))
  flops = cost.step_flops(network, config)
  state = _abstract_state(network, tx, config)
  sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
  trained = sum(
      leaf.size * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(state.online_params))
  return programs.Counts(
      flops_per_image=flops, state_bytes=sum(sizes), gradient_bytes=trained)


def compile_step(
    config: ml_collections.ConfigDict, num_classes: int | None,
    lengths: tuple[int, int], where: slices.Slice,
) -> programs.Program:
  """Compiles a run's step, as the loop would, for all devices of a slice.

  Args:
    config: a valid configuration; its batch divides over the devices.
    num_classes: of the data; None where there are no labels.
    lengths: (warmup_steps, total_steps) of the run.
    where: to compile for.

  Returns:
    What the compiler says of the program, or of why there is none.

  Raises:
    ConfigError: if the compiler knows no such slice.
  """
  topology = _topology_devices(where)
  network, tx, learning_rate_fn = _parts(config, num_classes, lengths)
  state = _abstract_state(network, tx, config)
  layout = sharding.create_layout(
      config, network, lambda: state, axis_name=devices.AXIS_NAME,
      num_devices=len(topology), per_host=where.devices_per_host)
  train_step = step_lib.make_train_step(
      config, network,
      optimizers.create_optimizer(config, learning_rate_fn, layout.norms),
      learning_rate_fn, total_steps=lengths[1], layout=layout)
  begin = time.monotonic()
  with convolution.for_any_platform():
    lowered = devices.pmap_voting_step(
        train_step, devices=topology, state_axes=layout.axes).lower(
        layout.shapes(state, len(topology)),
        _abstract_batch(config, num_classes, len(topology)),
        jax.ShapeDtypeStruct((len(topology), _VOTES), jnp.float32))
  limit = _memory_limit(topology[:1], where)
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    refusal = memory_lib.read_refusal(str(error))
    if refusal is None:
      raise
    return programs.Program(
        seconds=time.monotonic() - begin, refusal=refusal)
  return ledger.read_program(
      compiled, limit=limit, turns=config.accumulation_steps,
      seconds=time.monotonic() - begin)


def _parts(
    config: ml_collections.ConfigDict, num_classes: int | None,
    lengths: tuple[int, int],
) -> tuple[Any, Any, schedules.Schedule]:
  """The network, the optimizer and its schedule, as the loop makes them."""
  warmup_steps, total_steps = lengths
  learning_rate_fn = schedules.make_learning_rate_fn(
      base_learning_rate=config.base_learning_rate,
      batch_size=config.batch_size, warmup_steps=warmup_steps,
      total_steps=total_steps)
  network = network_lib.create_network(
      config, num_classes, axis_name=devices.AXIS_NAME)
  return (
      network, optimizers.create_optimizer(config, learning_rate_fn),
      learning_rate_fn)


def _abstract_state(
    network: network_lib.Network, tx: Any, config: ml_collections.ConfigDict
) -> state_lib.TrainState:
  return jax.eval_shape(
      state_lib.make_create_train_state(network, tx, config))


def _abstract_batch(
    config: ml_collections.ConfigDict, num_classes: int | None,
    num_devices: int) -> dict[str, Any]:
  """Shapes of what the pipeline yields and `devices.shard` makes of it."""
  rows = (num_devices, config.batch_size // num_devices)
  size = config.image_size
  channels = len(config.augment.mean)
  index = jax.ShapeDtypeStruct(rows, jnp.int32)
  batch = {'index': index}
  if config.augment.device:
    draws = jax.ShapeDtypeStruct((*rows, columns.COUNT), jnp.float32)
    crops = jax.ShapeDtypeStruct((*rows, channels, size, size), jnp.uint8)
    batch['crops'] = (crops,) * 2
    batch['draws'] = (draws,) * 2
  else:
    views = jax.ShapeDtypeStruct((*rows, size, size, channels), jnp.float32)
    batch['views'] = (views,) * 2
  return batch if num_classes is None else batch | {'label': index}


def _topology_devices(where: slices.Slice) -> Sequence[jax.Device]:
  """Devices that can be compiled for; as many as JAX would find there."""
  bounds = (*where.host_shape, 1, 1)[:3]
  options: dict[str, Any] = {'chips_per_host_bounds': bounds}
  if where.chip.name == 'v4':
    # Left alone, libtpu takes each of a v4 chip's cores for a device. On a v4
    # machine JAX sees both as one.
    options['chip_config_name'] = 'megacore'
  try:
    found = topologies.get_topology_desc(
        where.name, platform='tpu', **options).devices
  except jax.errors.JaxRuntimeError as error:
    raise ConfigError(
        f'libtpu does not know --topology={where.name}: {error}') from error
  if len(found) != where.num_devices:
    raise ConfigError(
        f'libtpu sees {len(found)} devices in {where.name}, expected '
        f'{where.num_devices}: this version is not one that a plan knows')
  return found


def _memory_limit(
    device: Sequence[jax.Device], where: slices.Slice) -> int:
  """What XLA lets a program take of a device: it says so when it refuses."""
  sharding = jax.sharding.NamedSharding(
      jax.sharding.Mesh(np.asarray(device), ('one',)),
      jax.sharding.PartitionSpec())
  vector = jax.ShapeDtypeStruct((2**19,), jnp.float32, sharding=sharding)

  def too_much(x: jax.Array) -> jax.Array:  # a terabyte
    return jnp.cumsum(jnp.sort(x[:, None] * x[None, :], axis=1), axis=0)

  try:
    jax.jit(too_much).lower(vector).compile()
  except jax.errors.JaxRuntimeError as error:
    refusal = memory_lib.read_refusal(str(error))
    if refusal is not None:
      return refusal.limit
  return round(where.chip.usable_bytes)

"""All that is said of a run on one slice, as figures with their units."""

import dataclasses
from typing import Any

import ml_collections

from byol_jax.planning import collectives as collectives_lib
from byol_jax.planning import floor as floor_lib
from byol_jax.planning import programs
from byol_jax.planning import slices

_VIEWS = 2
_BYTES_OF_PIXEL_CHANNEL = 4  # float32


def describe(
    config: ml_collections.ConfigDict, where: slices.Slice,
    counts: programs.Counts, program: programs.Program | None, *,
    total_steps: int, utilisation: float,
) -> dict[str, Any]:
  """Figures of one slice: bytes, FLOPs and seconds, never scaled.

  Args:
    config: of the run.
    where: the slice.
    counts: of the step.
    program: the compiled step; None leaves what only a compiler knows out.
    total_steps: of the run.
    utilisation: share of the floor's speed that is assumed to be reached.

  Returns:
    Names with values that JSON knows. `floor`, `rates` and `collectives` are
    missing where XLA refused.
  """
  device_batch_size = config.batch_size // where.num_devices
  figures = {
      'topology': where.name,
      'chips': where.num_chips,
      'devices': where.num_devices,
      'hosts': where.num_hosts,
      'batch_size': config.batch_size,
      'device_batch_size': device_batch_size,
      'accumulation_steps': config.accumulation_steps,
      'total_steps': total_steps,
      'flops_per_image': counts.flops_per_image,
      'state_bytes': counts.state_bytes,
      'compiled': program is not None,
      'fits': None if program is None else program.fits,
  }
  if program is not None:
    figures |= {'compile_seconds': program.seconds} | _memory(program)
  if program is not None and program.memory is None:
    return figures
  if program is None:
    found = [collectives_lib.Collective(
        'all-reduce', 1, counts.gradient_bytes)]
  else:
    found = program.collectives
    figures |= {
        'xla_flops_per_image': program.flops / device_batch_size,
        'xla_bytes_accessed_per_image':
            program.bytes_accessed / device_batch_size,
        'xla_optimal_seconds': program.optimal_seconds or None,
        'main_memory_bytes_per_image':
            program.main_memory_bytes / device_batch_size,
        'collectives': [dataclasses.asdict(c) for c in found]}
  floor = floor_lib.find_floor(
      where, flops=counts.flops_per_image * device_batch_size,
      main_memory_bytes=program and program.main_memory_bytes,
      collectives=found)
  return figures | _times(config, where, floor, total_steps, utilisation)


def _memory(program: programs.Program) -> dict[str, Any]:
  if program.memory is None:
    return {'memory': {
        'limit_bytes': program.refusal.limit,
        'refused_bytes': program.refusal.needed}}
  memory = program.memory
  return {'memory': {
      f'{name}_bytes': getattr(memory, name) for name in (
          'limit', 'peak', 'state', 'batch', 'waiting', 'temporaries',
          'outputs', 'code')}}


def _times(
    config: ml_collections.ConfigDict, where: slices.Slice,
    floor: floor_lib.Floor, total_steps: int, utilisation: float,
) -> dict[str, Any]:
  """What the floor means for the run."""
  image_bytes = (
      _VIEWS * config.image_size**2 * len(config.augment.mean)
      * _BYTES_OF_PIXEL_CHANNEL)

  def rates(seconds: float) -> dict[str, float]:
    images = config.batch_size / seconds
    return {
        'seconds_per_step': seconds,
        'images_per_second': images,
        'hours': total_steps * seconds / 3600,
        'chip_hours': where.num_chips * total_steps * seconds / 3600,
        'host_images_per_second': images / where.num_hosts,
        'host_bytes_per_second': images / where.num_hosts * image_bytes}

  return {
      'floor': dataclasses.asdict(floor) | {'bound': floor.bound},
      'at_floor': rates(floor.seconds),
      'utilisation': utilisation,
      'at_utilisation': rates(floor.seconds / utilisation)}

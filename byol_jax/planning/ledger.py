"""The ledger of a compiled step: FLOPs, bytes, memory, collectives."""

from collections.abc import Sequence
from typing import Any

import jax

from byol_jax.planning import collectives
from byol_jax.planning import hlo
from byol_jax.planning import memory as memory_lib
from byol_jax.planning import programs
from byol_jax.planning import traffic


def read_program(
    compiled: jax.stages.Compiled, *, turns: int = 1, limit: int = 0,
    seconds: float = 0.0) -> programs.Program:
  """What is to be known of a compiled step.

  Args:
    compiled: for one device or several.
    turns: of the loop over micro-batches. XLA counts its body once; what is
      outside is little.
    limit: bytes that a program may take of a device, if that is asked.
    seconds: that compiling took, likewise.
  """
  sizes, costs = compiled.memory_analysis(), compiled.cost_analysis()
  state = sizes.alias_size_in_bytes
  memory = memory_lib.Memory(
      limit=limit, state=state,
      batch=sizes.argument_size_in_bytes - state,
      temporaries=sizes.temp_size_in_bytes,
      outputs=sizes.output_size_in_bytes - state,
      code=sizes.generated_code_size_in_bytes)
  text = hlo.Program(compiled.as_text())
  return programs.Program(
      seconds=seconds, memory=memory, flops=turns * costs['flops'],
      bytes_accessed=turns * costs['bytes accessed'],
      optimal_seconds=turns * max(costs.get('optimal_seconds', 0), 0),
      main_memory_bytes=traffic.main_memory_bytes(text),
      collectives=tuple(collectives.read_collectives(text)))


def describe(
    program: programs.Program, *, flops_per_image: float, images: int
) -> dict[str, Any]:
  """A program's rows, in units that people read.

  Args:
    program: of one device.
    flops_per_image: that the method needs, see `training.cost`.
    images: of a step, on the device.
  """
  memory = program.memory
  return {
      'gflop_per_image': flops_per_image / 1e9,
      'xla_gflop_per_image': program.flops / images / 1e9,
      'xla_over_needed': program.flops / images / flops_per_image,
      'megabytes_accessed_per_image': program.bytes_accessed / images / 1e6,
      'state_megabytes': memory.state / 1e6,  # donated: there is no second
      'batch_megabytes': memory.batch / 1e6,
      'temporaries_megabytes': memory.temporaries / 1e6,
      'peak_megabytes': (memory.peak - memory.waiting) / 1e6,
      'collectives': _by_kind(program.collectives),
      'xla_least_milliseconds': 1e3 * program.optimal_seconds or None}


def _by_kind(
    found: Sequence[collectives.Collective]) -> dict[str, dict[str, float]]:
  """Whatever the size of the groups that take part."""
  rows = {c.kind: {'count': 0, 'megabytes': 0.0} for c in found}
  for c in found:
    rows[c.kind]['count'] += c.count
    rows[c.kind]['megabytes'] += c.result_bytes / 1e6
  return rows

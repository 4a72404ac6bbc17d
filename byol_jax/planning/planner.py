"""Plans one run for several slices; compiles nothing twice."""

from collections.abc import Sequence
import functools
from typing import Any

from absl import logging
import ml_collections

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.config import ConfigError
from byol_jax.planning import datasets
from byol_jax.planning import isolation
from byol_jax.planning import libtpu
from byol_jax.planning import programs
from byol_jax.planning import report
from byol_jax.planning import search
from byol_jax.planning import slices as slices_lib


class Planner:
  """One run: its config, its data's size and its length.

  JAX is imported when it is needed, which is not where all is remembered.
  """

  def __init__(
      self, config: ml_collections.ConfigDict, facts: datasets.Facts,
      slices: Sequence[slices_lib.Slice]):
    """Checks what needs no compile.

    Args:
      config: of the run.
      facts: of its data.
      slices: to plan for.

    Raises:
      ConfigError: if a rule of the config is broken, on any of the slices.
    """
    config_rules.validate(config)
    for where in slices:
      try:
        config_rules.validate(config, num_devices=where.num_devices)
      except ConfigError as error:
        raise ConfigError(f'on {where.name}: {error}') from error
    self.libtpu = libtpu.version()
    self._config = config
    self._num_classes = facts.num_classes
    total_steps, warmup_steps = config_lib.run_length(
        config, facts.num_examples)
    self._lengths = (warmup_steps, total_steps)
    self._compiled = functools.cache(self._compile)
    self.deaths: dict[slices_lib.Slice, str] = {}  # of the compiler

  def describe(
      self, where: slices_lib.Slice, utilisation: float) -> dict[str, Any]:
    """Everything about a slice, see `report.describe`.

    Where the compiler dies, what needs no compile.
    """
    program = None
    if self.libtpu:
      try:
        program, _ = self.compile(where)
      except isolation.CompilerDied as error:
        self.deaths[where] = str(error)
    return report.describe(
        self._config, where, self.count(), program,
        total_steps=self._lengths[1], utilisation=utilisation)

  def count(self) -> programs.Counts:
    """What holds on any machine."""
    def make() -> programs.Counts:
      from byol_jax.planning import compilation
      return compilation.count(self._config, self._num_classes)

    key = programs.key_of(self._config, self._num_classes)
    return programs.remembered(
        'counts', key, make, lambda fields: programs.Counts(**fields))[0]

  def compile(
      self, where: slices_lib.Slice) -> tuple[programs.Program, bool]:
    """The step of a slice, and whether an earlier command compiled it."""
    return self._compiled(where, self._config.batch_size)

  def search(
      self, where: slices_lib.Slice, max_compiles: int) -> search.Found:
    """The largest batch of a device, see `search.find_largest`."""
    devices = where.num_devices
    return search.find_largest(
        lambda images: self._compiled(where, images * devices)[0],
        self._config.batch_size // devices,
        accumulation_steps=self._config.accumulation_steps,
        max_compiles=max_compiles)

  def _compile(
      self, where: slices_lib.Slice, batch_size: int
  ) -> tuple[programs.Program, bool]:
    config = self._config.copy_and_resolve_references()
    config.batch_size = batch_size

    def make() -> programs.Program:
      logging.info(
          'compiling the step for %s, %d images of a device; this may take '
          'minutes', where.name, batch_size // where.num_devices)
      return isolation.compile_apart(
          config, self._num_classes, self._lengths, where)

    key = programs.key_of(
        config, self._num_classes, self._lengths, where.name, self.libtpu)
    return programs.remembered('program', key, make, programs.to_program)

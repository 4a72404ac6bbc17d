"""Compiles in a process of its own, which may crash alone.

libtpu has been seen to end the process that it is loaded in (by a signal, in
the middle of a compile), and keeps the memory that a compile took.
"""

import concurrent.futures
from concurrent.futures import process
import multiprocessing
import signal
from typing import Any

import ml_collections

from byol_jax import config as config_lib
from byol_jax.config import ConfigError
from byol_jax.planning import programs
from byol_jax.planning import slices


def compile_apart(
    config: ml_collections.ConfigDict, num_classes: int | None,
    lengths: tuple[int, int], where: slices.Slice,
) -> programs.Program:
  """`compilation.compile_step` in a child process.

  Raises:
    ConfigError: as that does, and if the child dies.
  """
  with concurrent.futures.ProcessPoolExecutor(
      1, mp_context=multiprocessing.get_context('spawn'),
      initializer=_die_of_ctrl_c) as pool:
    try:
      return pool.submit(
          _compile, config_lib.to_dict(config), num_classes, lengths, where
      ).result()
    except process.BrokenProcessPool as error:
      raise ConfigError(
          f'the compiler died while it compiled the step for {where.name}, of '
          'a fault of its own or for want of memory on this machine; run '
          'again, with this topology alone or without it: what is compiled '
          'already is remembered') from error


def _die_of_ctrl_c() -> None:
  """At once: Python's own handler would wait for the compiler to return."""
  signal.signal(signal.SIGINT, signal.SIG_DFL)


def _compile(
    fields: dict[str, Any], num_classes: int | None, lengths: tuple[int, int],
    where: slices.Slice) -> programs.Program:
  # JAX is imported here and in no other process.
  from byol_jax.planning import compilation
  return compilation.compile_step(
      config_lib.from_dict(fields), num_classes, lengths, where)

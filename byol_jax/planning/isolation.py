"""Compiles in a process of its own, which may crash alone.

libtpu keeps the memory that a compile took, and can end the process that it is
loaded in: libtpu 0.0.42 goes so deep into the step of a ResNet-50 for v6e that
it overflows the eight megabytes of stack that a thread is usually given.
"""

import concurrent.futures
from concurrent.futures import process
import multiprocessing
import resource
import signal
from typing import Any

import ml_collections

from byol_jax import config as config_lib
from byol_jax.config import ConfigError
from byol_jax.planning import programs
from byol_jax.planning import slices

_STACK_BYTES = 2**30


def compile_apart(
    config: ml_collections.ConfigDict, num_classes: int | None,
    lengths: tuple[int, int], where: slices.Slice,
) -> programs.Program:
  """`compilation.compile_step` in a child process.

  Raises:
    ConfigError: as that does, and if the child dies.
  """
  _raise_stack_limit()
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


def _raise_stack_limit() -> None:
  """Of processes that start from now on, and so of their threads.

  A thread gets as much as the limit says, and two megabytes where it says that
  there is none.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
  no_limit = resource.RLIM_INFINITY
  wanted = _STACK_BYTES if hard == no_limit else min(hard, _STACK_BYTES)
  if soft == no_limit or soft < wanted:
    resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))


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

"""Compiles in a process of its own, which may die alone.

libtpu keeps the memory that a compile took, and can end the process that it is
loaded in: libtpu 0.0.42 overflows its stack on some steps.
"""

import concurrent.futures
from concurrent.futures import process
import multiprocessing
import os
import pathlib
import re
import signal
import tempfile
import threading
from typing import Any

import ml_collections

from byol_jax import config as config_lib
from byol_jax.config import ConfigError
from byol_jax.planning import programs
from byol_jax.planning import slices


class CompilerDied(ConfigError):
  """The compiler ended its process; which step, and its last words."""


def compile_apart(
    config: ml_collections.ConfigDict, num_classes: int | None,
    lengths: tuple[int, int], where: slices.Slice,
) -> programs.Program:
  """`compilation.compile_step` in a child process.

  Raises:
    CompilerDied: if the child does.
    ConfigError: as `compile_step`.
  """
  with tempfile.TemporaryDirectory() as folder:
    log = pathlib.Path(folder) / 'stderr'
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context('spawn'),
        initializer=_set_up, initargs=(str(log),)) as pool:
      try:
        return pool.submit(
            _compile, config_lib.to_dict(config), num_classes, lengths, where
        ).result()
      except process.BrokenProcessPool as error:
        raise CompilerDied(
            f'the compiler died while it compiled the step for {where.name}, '
            f'{config.batch_size // where.num_devices} images of a device '
            f'({_last_words(log)})') from error


def _set_up(log: str) -> None:
  """Of the child: dies of ctrl-C at once, and complains into a file.

  Python's own handler would wait for the compiler to return. It dies with its
  parent, too, however that ends: a compiler takes gigabytes, and minutes.
  """
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  threading.Thread(target=_leave_with_parent, daemon=True).start()
  with open(log, 'wb') as file:
    os.dup2(file.fileno(), 2)


def _leave_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)


def _last_words(log: pathlib.Path) -> str:
  """What libtpu's handler of signals says: a line between asterisks."""
  text = log.read_text(errors='replace') if log.exists() else ''
  found = re.search(r'^\*\*\* (.*?)(?: received| \(see|$)', text, re.MULTILINE)
  return found.group(1) if found else 'it said nothing; out of memory?'


def _compile(
    fields: dict[str, Any], num_classes: int | None, lengths: tuple[int, int],
    where: slices.Slice) -> programs.Program:
  # JAX is imported here and in no other process.
  from byol_jax.planning import compilation
  return compilation.compile_step(
      config_lib.from_dict(fields), num_classes, lengths, where)

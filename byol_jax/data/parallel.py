"""How datasets are made on all cores, in an order that is always the same."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from byol_jax import platforms

# Under way at once, and ready before they are asked for. Batches may take
# gigabytes, and hosts have hundreds of cores.
BATCHES = 2


def parallel_map(
    dataset: tf.data.Dataset, fn: Callable[..., Any],
    calls: int | None = None) -> tf.data.Dataset:
  """Parallel map; what the functions do needs no AutoGraph, which is slow.

  Args:
    dataset: to map.
    fn: of an element.
    calls: results that are made, or wait, at once: one a core, or less where
      elements are batches (`BATCHES`) or parts of them.
  """
  return dataset.map(
      tf.autograph.experimental.do_not_convert(fn), calls or platforms.cores())


def without_autotuner(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """What every pipeline is that Python iterates over.

  The autotuner's thread sleeps for up to a minute, and may miss that it is to
  end: then whoever lets go of an iterator waits, such as a run that was told to
  stop.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return dataset.with_options(options)


def prefetch_in_order(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """The end of every pipeline."""
  options = tf.data.Options()
  options.deterministic = True
  # Elements are made in parallel, so one thread each is best, and it keeps the
  # order of every sum independent of how many cores there are.
  options.threading.max_intra_op_parallelism = 1
  return without_autotuner(dataset.prefetch(BATCHES).with_options(options))

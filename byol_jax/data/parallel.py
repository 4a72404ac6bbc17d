"""How datasets are made on all cores, in an order that is always the same."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from byol_jax import platforms

# Batches that are ready before they are asked for.
_PREFETCHED = 2


def parallel_map(
    dataset: tf.data.Dataset, fn: Callable[..., Any]) -> tf.data.Dataset:
  """Parallel map; what the functions do needs no AutoGraph, which is slow."""
  return dataset.map(
      tf.autograph.experimental.do_not_convert(fn), platforms.cores())


def prefetch_in_order(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """The end of every pipeline."""
  options = tf.data.Options()
  options.deterministic = True
  # Its thread sleeps for up to a minute, and may miss that it is to end: then
  # whoever lets go of an iterator waits, such as a run that was told to stop.
  options.autotune.enabled = False
  # Elements are made in parallel, so one thread each is best, and it keeps the
  # order of every sum independent of how many cores there are.
  options.threading.max_intra_op_parallelism = 1
  return dataset.prefetch(_PREFETCHED).with_options(options)

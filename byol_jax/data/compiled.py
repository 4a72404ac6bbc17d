"""Functions of jax.numpy as parts of a tf.data pipeline.

What changes pixels is written in jax.numpy, for one image. On the host XLA
compiles it: its loops are fused and vectorised, and one image after the other
stays in the processor's cache, which is several times faster than TensorFlow's
operations on a batch. Nothing of Python is left in the graph.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.experimental import jax2tf

from byol_jax import quiet_tensorflow
from byol_jax.quiet_tensorflow import tf


def for_host(
    fn: Callable[..., Any], shapes: Sequence[str] | None = None
) -> Callable[..., Any]:
  """Maps tensors to tensors, as `fn` does arrays.

  It is traced for every new combination of types and static shapes, and
  compiled for every new one of shapes when that first comes; keep what this
  returns, to share both.

  Args:
    fn: of jax.numpy.
    shapes: of the arguments, with names for dimensions that may differ from
      one call to the next, as '(side, side, 3)'; None: all are static.
  """
  quiet_tensorflow.start_compiler()
  converted = jax2tf.convert(
      fn, polymorphic_shapes=shapes, with_gradient=False,
      native_serialization_platforms=('cpu',))
  return tf.function(converted, jit_compile=True, autograph=False)


def each_for_host(fn: Callable[..., Any]) -> Callable[..., Any]:
  """As `for_host`, for arguments with a leading axis: row by row.

  A row gets the same bits whatever else is in its batch, so that the pixels of
  a run do not depend on the number of processes.
  """
  def rows(*args: jax.Array) -> Any:
    return lax.map(lambda row: fn(*row), args)

  return for_host(rows)

"""Batch normalisation over every device's share of the batch."""

from collections.abc import Callable
import contextlib
import functools
from typing import Any

from flax import linen as nn
import jax.numpy as jnp


def make_batch_norm(
    *, momentum: float, epsilon: float, axis_name: str | None,
    dtype: jnp.dtype | None = None,
) -> Callable[..., nn.BatchNorm]:
  """Returns a maker of batch normalisation layers.

  Statistics are float32 whatever `dtype` is: the biased variance
  E[x^2] - E[x]^2, with both moments averaged over `axis_name` in a single
  collective. Learned scale starts at 1 and offset at 0.

  Args:
    momentum: weight of the old running statistics.
    epsilon: added to the variance.
    axis_name: the mapped axis over which a training batch is spread.
    dtype: of the result; None is that of the input and the parameters.
  """
  return functools.partial(
      nn.BatchNorm, momentum=momentum, epsilon=epsilon, axis_name=axis_name,
      dtype=dtype)


def synchronized(axis_name: str | None) -> contextlib.AbstractContextManager:
  """Within it, every `nn.BatchNorm` that names no axis uses `axis_name`.

  For encoders that users bring: written for one device, they would normalise
  each device's share of the batch by its own statistics, and the result of a
  run would depend on the number of devices.
  """

  def interceptor(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if isinstance(module, nn.BatchNorm) and module.axis_name is None:
      # Flax freezes a module's fields, and a clone would be a new child.
      object.__setattr__(module, 'axis_name', axis_name)
    return next_fun(*args, **kwargs)

  return nn.intercept_methods(interceptor)

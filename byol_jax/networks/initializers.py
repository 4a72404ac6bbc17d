"""The original's initializer (reference: dm-haiku's default)."""

import math

import jax
import jax.numpy as jnp


def truncated_fan_in(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
  """Normal with standard deviation 1/sqrt(fan_in), cut at two of them.

  Unlike `lecun_normal`, the variance lost by the cut is not made up for: the
  true standard deviation is 0.88 / sqrt(fan_in), as in the original.

  Args:
    key: a PRNG key.
    shape: of a dense or convolution kernel, outputs last.
    dtype: of the result.

  Returns:
    An array of `shape`.
  """
  fan_in = math.prod(shape[:-1])
  stddev = 1.0 / math.sqrt(fan_in)
  return jax.nn.initializers.truncated_normal(stddev)(key, shape, dtype)

"""BYOL's loss: each view's prediction regresses the other's projection."""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byol_jax import all_reduce


def l2_normalize(x: jax.Array) -> jax.Array:
  """Scales each row of f[B, D] to unit length; a zero row stays zero."""
  square_norm = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * lax.rsqrt(jnp.maximum(square_norm, 1e-12))


def normalize(
    x: jax.Array, normalization: str, axis_name: str | None) -> jax.Array:
  """Normalises f[B, D] as the paper's Table 20 compares.

  `layer` and `batch` are divided by sqrt(D), so that a row's length is 1, as
  for `l2`, exactly or on average.

  Args:
    x: projections or predictions.
    normalization: l2, layer, batch or none.
    axis_name: mapped axis over which the batch is spread, or None.
  """
  if normalization == 'l2':
    return l2_normalize(x)
  if normalization == 'none':
    return x
  if normalization == 'layer':
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.var(x, axis=-1, keepdims=True)
  else:
    moments = jnp.stack([x, jnp.square(x)]).mean(axis=1)
    if axis_name is not None:
      moments = all_reduce.pmean(moments, axis_name)
    mean = moments[:1]
    variance = jnp.maximum(moments[1:] - jnp.square(mean), 0.0)
  return (x - mean) * lax.rsqrt((variance + 1e-5) * x.shape[-1])


def regression_loss(
    prediction: jax.Array, projection: jax.Array, normalization: str = 'l2',
    axis_name: str | None = None,
) -> jax.Array:
  """Squared distance of normalised rows: 2 - 2 cos, in [0, 4], for `l2`.

  Args:
    prediction: f[B, D] of the online network (paper, Eq. 2).
    projection: f[B, D] of the target network.
    normalization: l2, layer, batch or none.
    axis_name: mapped axis over which the batch is spread, or None.

  Returns:
    f[B].
  """
  difference = (
      normalize(prediction, normalization, axis_name)
      - normalize(projection, normalization, axis_name))
  return jnp.sum(jnp.square(difference), axis=-1)


def objective(
    online: tuple, target: tuple, objective_state: Any, *,
    axis_name: str | None, normalization: str = 'l2', **_: Any,
) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
  """The symmetric loss: the sum of both directions, not their mean.

  The scale matters: LARS leaves biases and normalisation parameters out, and
  those feel it. In [0, 8] for `l2`; about 4 where all directions are random.
  """
  loss = sum(
      regression_loss(
          online[i].prediction, target[1 - i].projection, normalization,
          axis_name)
      for i in range(2))
  return jnp.mean(loss), objective_state, {}

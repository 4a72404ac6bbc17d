"""The interpolation between BYOL and SimCLR (paper, Section 5, Eq. 6 and 8)."""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byol_jax import all_reduce
from byol_jax.objectives import regression


def _gather(x: jax.Array, axis_name: str | None) -> jax.Array:
  """All devices' rows, in order; the gradient flows back to their owners."""
  return x if axis_name is None else all_reduce.all_gather(x, axis_name)


def negatives(
    query: jax.Array, same_view: jax.Array, other_view: jax.Array, *,
    temperature: float, axis_name: str | None,
) -> jax.Array:
  """ln(sum_{j != i} exp(q_i.s_j / t) + sum_j exp(q_i.o_j / t)).

  Args:
    query: f[B, D], unit rows.
    same_view: f[B, D], unit rows of the side compared with; an example is no
      negative of itself.
    other_view: f[B, D], the same of the other view, positives included.
    temperature: t.
    axis_name: mapped axis; every device's examples are negatives.

  Returns:
    f[B].
  """
  batch = query.shape[0]
  same = query @ _gather(same_view, axis_name).T / temperature
  other = query @ _gather(other_view, axis_name).T / temperature
  first = 0 if axis_name is None else lax.axis_index(axis_name) * batch
  own = jnp.arange(same.shape[1])[None, :] == (
      first + jnp.arange(batch))[:, None]
  same = jnp.where(own, -jnp.inf, same)
  return jax.nn.logsumexp(jnp.concatenate([same, other], axis=1), axis=1)


def objective(
    online: tuple, target: tuple, objective_state: Any, *,
    axis_name: str | None, beta: float, temperature: float, **_: Any,
) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
  """2 - 2 cos of positives + beta * 2 * temperature * ln(negatives), summed.

  Minus Eq. 8 plus a constant, over both directions: with `beta` 0 it is the
  regression loss exactly; without predictor and target network, and with
  `beta` 1, it is SimCLR's times twice the temperature.
  """
  query = [regression.l2_normalize(o.prediction) for o in online]
  key = [regression.l2_normalize(t.projection) for t in target]
  loss = 0.0
  spread = 0.0
  for i in range(2):
    other = 1 - i
    loss += 2.0 - 2.0 * jnp.sum(query[i] * key[other], axis=-1)
    spread += 2.0 * temperature * negatives(
        query[i], key[i], key[other], temperature=temperature,
        axis_name=axis_name)
  metrics = {'train/negatives': jnp.mean(spread)}
  return jnp.mean(loss + beta * spread), objective_state, metrics

"""Learning rate and tau as functions of the 0-based step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


def make_learning_rate_fn(
    *, base_learning_rate: float, batch_size: int, warmup_steps: int,
    total_steps: int,
) -> Schedule:
  """Linear warm-up from exactly 0, then a cosine to exactly 0.

  Args:
    base_learning_rate: for a batch of 256; scaled linearly with the batch.
    batch_size: global.
    warmup_steps: the peak is reached at this step; 0 starts at the peak.
    total_steps: the rate is 0 here, one step after the last.

  Returns:
    A function of the step.
  """
  peak_learning_rate = base_learning_rate * batch_size / 256

  def learning_rate_fn(step: jax.typing.ArrayLike) -> jax.Array:
    step = jnp.asarray(step)
    dtype = jnp.result_type(float)
    warmup = step.astype(dtype) / max(warmup_steps, 1)
    progress = (step - warmup_steps).astype(dtype) / max(
        total_steps - warmup_steps, 1)
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
    return peak_learning_rate * jnp.where(
        step < warmup_steps, warmup, cosine)

  return learning_rate_fn


def make_tau_fn(
    *, base_tau: float, tau_schedule: str, total_steps: int) -> Schedule:
  """tau weighs the old target: 1 - (1 - base_tau) (1 + cos(pi k / K)) / 2.

  Args:
    base_tau: at step 0; 0 copies the online network, 1 freezes the target.
    tau_schedule: `cosine` (to 1 at `total_steps`) or `constant`.
    total_steps: K.

  Returns:
    A function of the step.
  """
  def tau_fn(step: jax.typing.ArrayLike) -> jax.Array:
    dtype = jnp.result_type(float)
    if tau_schedule == 'constant':
      return jnp.asarray(base_tau, dtype)
    progress = jnp.asarray(step).astype(dtype) / total_steps
    return 1 - (1 - base_tau) * 0.5 * (1 + jnp.cos(jnp.pi * progress))

  return tau_fn

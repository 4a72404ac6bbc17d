"""Accuracy of class scores."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames='count')
def top_accuracy(
    scores: jax.Array, label: jax.Array, *, count: int) -> jax.Array:
  """Share of examples whose label is among the `count` highest scores.

  Of equal scores the lower class goes first.

  Args:
    scores: float[..., N, C].
    label: i32[N].
    count: at most C.

  Returns:
    f32[...], in [0, 1].
  """
  _, classes = jax.lax.top_k(scores, count)
  right = jnp.expand_dims(label, -1)
  right = classes == jnp.broadcast_to(right, classes.shape)
  return jnp.mean(jnp.any(right, axis=-1), axis=-1, dtype=jnp.float32)


def top_counts(num_classes: int) -> tuple[int, ...]:
  """Which accuracies say something: top-5 only of more than five classes."""
  return (1, 5) if num_classes > 5 else (1,)

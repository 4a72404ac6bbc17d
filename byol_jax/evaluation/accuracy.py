"""Accuracy of class scores."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames='count')
def count_hits(
    scores: jax.Array, label: jax.Array, *, count: int) -> jax.Array:
  """How many examples have their label among the `count` highest scores.

  Of equal scores the lower class goes first.

  Args:
    scores: float[..., N, C].
    label: i32[N].
    count: at most C.

  Returns:
    i32[...], at most N.
  """
  _, classes = jax.lax.top_k(scores, count)
  right = jnp.broadcast_to(jnp.expand_dims(label, -1), (*label.shape, count))
  hits = classes == jnp.broadcast_to(right, classes.shape)
  return jnp.sum(jnp.any(hits, axis=-1), axis=-1, dtype=jnp.int32)


def top_counts(num_classes: int) -> tuple[int, ...]:
  """Which accuracies say something: top-5 only of more than five classes."""
  return (1, 5) if num_classes > 5 else (1,)

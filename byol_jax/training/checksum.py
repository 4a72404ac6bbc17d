"""Checksums of a state, computed where it lies.

Saved beside the arrays, and computed anew of what is read back, they tell
whether it is what was saved, whatever happened to the files in between.
"""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np


def checksums(tree: Any) -> dict[str, list[int]]:
  """Two sums of every array's bits, by its path with dots.

  The second weighs each word by an odd number that its place gives, all
  modulo 2**32. So a change of one word always shows, and any other goes
  unseen once in 2**64.
  """
  sums = np.asarray(_sums(tree))
  return dict(zip(paths(tree), sums.tolist(), strict=True))


def paths(tree: Any) -> list[str]:
  """Of every leaf, like `online_params.encoder.stem_conv.kernel`."""
  return [
      '.'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(
          k, 'idx', k)))) for k in path)
      for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


@jax.jit
def _sums(tree: Any) -> jax.Array:
  return jnp.stack([_sum(x) for x in jax.tree.leaves(tree)])


def _sum(x: jax.Array) -> jax.Array:
  """u32[2] of an array of any type of up to 32 bits."""
  if jnp.issubdtype(x.dtype, jnp.floating):
    x = lax.bitcast_convert_type(x, f'uint{8 * x.dtype.itemsize}')
  words = x.reshape(-1).astype(jnp.uint32)
  weights = 2 * lax.iota(jnp.uint32, words.size) + jnp.uint32(1)
  return jnp.stack([
      jnp.sum(words, dtype=jnp.uint32),
      jnp.sum(words * weights, dtype=jnp.uint32)])

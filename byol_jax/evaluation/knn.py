"""Weighted k-nearest-neighbour classification, exact.

The protocol of Wu et al. 2018 (instance discrimination), section 3.4: a test
example takes its k nearest training examples by cosine; each votes for its
class with weight exp(cosine / temperature).

Ties: of equally near neighbours the one with the lower row in the bank goes
first; of equally voted classes the lower one wins.
"""

from collections.abc import Iterator
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byol_jax import peers
from byol_jax.evaluation import accuracy
from byol_jax.evaluation import features as features_lib
from byol_jax.objectives import regression


@functools.partial(jax.jit, donate_argnums=(0,))
def _merge_block(
    best: tuple[jax.Array, jax.Array], queries: jax.Array, block: jax.Array,
    start: jax.Array, num_rows: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Merges one block of the bank into the nearest neighbours so far.

  Args:
    best: cosines f32[Q, q, k], falling, and rows i32[Q, q, k].
    queries: f32[Q, q, D], normalised.
    block: f32[b, D], normalised.
    start: i32[], the block's first row in the bank.
    num_rows: i32[], of the bank; rows from here on are padding.

  Returns:
    The new `best`.
  """
  rows = start + jnp.arange(block.shape[0])

  def merge(args: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    best_cosine, best_row, query = args
    k = best_cosine.shape[1]
    cosine = jnp.matmul(query, block.T, precision=lax.Precision.HIGHEST)
    cosine = jnp.where((rows < num_rows)[None], cosine, -jnp.inf)
    cosine, position = lax.top_k(cosine, min(k, block.shape[0]))
    # The earlier block first: top_k takes the first of equals.
    cosine = jnp.concatenate([best_cosine, cosine], axis=1)
    row = jnp.concatenate([best_row, start + position], axis=1)
    cosine, position = lax.top_k(cosine, k)
    return cosine, jnp.take_along_axis(row, position, axis=1)

  return lax.map(merge, (*best, queries))


def _pad_rows(x: np.ndarray, multiple: int) -> np.ndarray:
  return np.pad(x, [(0, -len(x) % multiple), (0, 0)])


def find_neighbors(
    queries: np.ndarray, bank: np.ndarray, k: int, *,
    query_block: int = 1024, bank_block: int = 65536,
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the k rows of the bank with the highest cosine to each query.

  The bank goes through the device block by block, so it need fit only the
  host; the result does not depend on the sizes of the blocks.

  Args:
    queries: f32[Q, D].
    bank: f32[N, D].
    k: neighbours; N if that is less.
    query_block: queries compared at once.
    bank_block: rows of the bank on the device at once.

  Returns:
    Cosines f32[Q, k], falling, and rows of the bank i32[Q, k].
  """
  count, num_rows = len(queries), len(bank)
  k = min(k, num_rows)
  query_block, bank_block = min(query_block, count), min(bank_block, num_rows)
  normalize = jax.jit(regression.l2_normalize)
  padded = normalize(_pad_rows(queries, query_block))
  padded = padded.reshape(-1, query_block, queries.shape[1])
  shape = (*padded.shape[:2], k)
  best = jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32)
  for start in range(0, num_rows, bank_block):
    peers.advance(f'neighbours, row {start} of {num_rows}')
    block = _pad_rows(bank[start:start + bank_block], bank_block)
    best = _merge_block(
        best, padded, normalize(block), jnp.int32(start), jnp.int32(num_rows))
  cosine, row = (np.asarray(x).reshape(-1, k)[:count] for x in best)
  return cosine, row


@functools.partial(jax.jit, static_argnames='num_classes')
def vote(
    cosine: jax.Array, label: jax.Array, temperature: jax.typing.ArrayLike, *,
    num_classes: int,
) -> jax.Array:
  """Sums each class's weights exp(cosine / temperature).

  Args:
    cosine: f32[Q, k] of the neighbours, falling.
    label: i32[Q, k] of the neighbours.
    temperature: above 0.
    num_classes: C.

  Returns:
    f32[Q, C], each row divided by the weight of its nearest neighbour, which
    keeps a low temperature from overflowing.
  """
  weight = jnp.exp((cosine - cosine[:, :1]) / temperature)
  scores = jnp.zeros((cosine.shape[0], num_classes), cosine.dtype)
  query = jnp.arange(cosine.shape[0])[:, None]
  return scores.at[query, label].add(weight)


def run(
    train: features_lib.Features, test: features_lib.Features, *, k: int,
    temperature: float, num_classes: int,
) -> Iterator[tuple[str, float]]:
  """Classifies the test split by its neighbours in the train split.

  Args:
    train: the labelled bank.
    test: labelled.
    k: neighbours; the size of the bank if that is less.
    temperature: of the votes, above 0.
    num_classes: C.

  Yields:
    `knn/test_top1` and, of more than five classes, `knn/test_top5`.
  """
  cosine, row = find_neighbors(test.embedding, train.embedding, k)
  scores = vote(
      cosine, train.label[row], temperature, num_classes=num_classes)
  for count in accuracy.top_counts(num_classes):
    hits = accuracy.count_hits(scores, test.label, count=count)
    yield f'knn/test_top{count}', int(hits) / len(test.label)

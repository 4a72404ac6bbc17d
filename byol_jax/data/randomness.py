"""Which example, and which random numbers, belong to a position in the run.

Everything here is a pure function of (seed, global position): position
`step * batch_size + row` of the run. Neither the number of processes, nor
where a run was resumed, nor how tf.data schedules its threads can change what
an example becomes.
"""

import tensorflow as tf

_PHILOX = 1  # tf.random.Algorithm.PHILOX, as the raw op wants it
_DRAWS_PER_BLOCK = 4  # uint32 words that one tick of Philox's counter yields


def example_order(
    positions: tf.Tensor, *, num_examples: int, seed: int) -> tf.Tensor:
  """Indices of the examples at some positions of a shuffled, endless run.

  Epoch `p // num_examples` is a permutation of its own, so every example is
  seen once before any is seen twice, and a batch may straddle two epochs.
  Constant time at any position: nothing before it is visited.

  Args:
    positions: int64 [n], at least 0.
    num_examples: of the source.
    seed: any int.

  Returns:
    int64 [n] in [0, num_examples).
  """
  epochs = positions // num_examples
  ranks = positions % num_examples
  seeds = tf.stack([
      tf.fill(tf.shape(positions), tf.constant(seed % 2**32, tf.uint32)),
      tf.fill(tf.shape(positions), tf.constant((seed >> 32) % 2**32,
                                               tf.uint32)),
      tf.cast(epochs, tf.uint32)], axis=1)
  # The op of tf.random.experimental.index_shuffle, whose wrapper does not
  # take one seed per index.
  indices = tf.raw_ops.RandomIndexShuffle(
      index=tf.cast(ranks, tf.uint64), seed=seeds,
      max_index=tf.constant(num_examples - 1, tf.uint64), rounds=4)
  return tf.cast(indices, tf.int64)


def uniform_draws(
    first_position: tf.Tensor, num_rows: int, num_draws: int, *, seed: int,
    stream: int) -> tf.Tensor:
  """Uniform draws of consecutive positions.

  One call of a counter-based generator: row r starts at the counter of
  position `first_position + r`, so it does not matter how a run is cut into
  batches.

  Args:
    first_position: int64 scalar, at least 0.
    num_rows: consecutive positions.
    num_draws: per position.
    seed: any int.
    stream: in [0, 256), tells independent uses of one seed apart (the views).

  Returns:
    float32 [num_rows, num_draws] in [0, 1).
  """
  blocks = -(-num_draws // _DRAWS_PER_BLOCK)
  counter = tf.cast(first_position, tf.uint64) * blocks
  key = (seed % 2**56) * 256 + stream
  draws = tf.raw_ops.StatelessRandomUniformV2(
      shape=[num_rows, blocks * _DRAWS_PER_BLOCK],
      key=tf.constant([key], tf.uint64),
      counter=tf.stack([counter, tf.zeros_like(counter)]),
      alg=_PHILOX)
  return draws[:, :num_draws]

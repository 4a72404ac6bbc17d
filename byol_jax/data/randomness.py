"""Which example, and which random numbers, belong to a position in the run.

Everything here is a pure function of (seed, global position): position
`step * batch_size + row` of the run. Neither the number of processes, nor
where a run was resumed, nor how tf.data schedules its threads can change what
an example becomes.
"""

import tensorflow as tf

_PHILOX = 1  # tf.random.Algorithm.PHILOX, as the raw op wants it
_ORDER_STREAM = 255
_DRAWS_PER_BLOCK = 4  # uint32 words that one tick of Philox's counter yields


def permutation(epoch: tf.Tensor, *, num_examples: int, seed: int) -> tf.Tensor:
  """The order of the examples in one epoch, int64 [num_examples].

  It sorts random words, so that every order is as likely as another.
  (TensorFlow's `index_shuffle` needs no memory, but is visibly not uniform: of
  the six orders of three examples one came up twice as often as another, and
  neighbours in a permutation of a thousand were far from independent.)

  Args:
    epoch: int64 scalar, at least 0.
    num_examples: to order.
    seed: any int.
  """
  words = tf.raw_ops.StatelessRandomUniformFullIntV2(
      shape=[num_examples], key=_key(seed, _ORDER_STREAM),
      counter=tf.stack([tf.zeros([], tf.uint64), tf.cast(epoch, tf.uint64)]),
      alg=_PHILOX, dtype=tf.int64)
  return tf.cast(tf.argsort(words, stable=True), tf.int64)


def example_order(
    *, num_examples: int, batch_size: int, start_step: int, total_steps: int,
    seed: int) -> tf.data.Dataset:
  """Indices of the examples in each batch of a shuffled, endless run.

  Shuffled, then repeated: every example is seen once before any is seen twice,
  and a batch may straddle two epochs. Starting anywhere costs one epoch's
  permutation (a fraction of a second for a million examples).

  Args:
    num_examples: of the source.
    batch_size: global.
    start_step: first batch.
    total_steps: end of the run, at least start_step.
    seed: any int.

  Returns:
    A dataset of int64 [batch_size], from start_step to total_steps.
  """
  first_epoch, first_rank = divmod(start_step * batch_size, num_examples)
  last_epoch = -(-total_steps * batch_size // num_examples)

  def ordered(epoch: tf.Tensor) -> tf.Tensor:
    order = permutation(epoch, num_examples=num_examples, seed=seed)
    return order[tf.where(epoch == first_epoch, first_rank, 0):]

  # The next epoch's permutation is ready before it is needed.
  epochs = tf.data.Dataset.range(first_epoch, last_epoch)
  epochs = epochs.map(
      tf.autograph.experimental.do_not_convert(ordered)).prefetch(1)
  return (epochs.unbatch().batch(batch_size, drop_remainder=True)
          .take(total_steps - start_step))


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
    stream: in [0, 255), tells independent uses of one seed apart (the views).

  Returns:
    float32 [num_rows, num_draws] in [0, 1).
  """
  blocks = -(-num_draws // _DRAWS_PER_BLOCK)
  counter = tf.cast(first_position, tf.uint64) * blocks
  draws = tf.raw_ops.StatelessRandomUniformV2(
      shape=[num_rows, blocks * _DRAWS_PER_BLOCK],
      key=_key(seed, stream),
      counter=tf.stack([counter, tf.zeros_like(counter)]),
      alg=_PHILOX)
  return draws[:, :num_draws]


def _key(seed: int, stream: int) -> tf.Tensor:
  return tf.constant([(seed % 2**56) * 256 + stream], tf.uint64)

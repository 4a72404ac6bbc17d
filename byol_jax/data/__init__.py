"""Input: sources of examples, augmentation, and tf.data pipelines.

The way the data goes: `sources` opens a dataset and reads examples by index,
`randomness` says which example and which draws belong to a position in the
run, `crop` and `augment` are the operations, `views` composes them into one
view, and `pipeline` makes batches.
"""

from byol_jax import quiet_tensorflow  # noqa: F401

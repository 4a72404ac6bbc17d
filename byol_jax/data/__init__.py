"""Input: sources of examples, augmentation, and tf.data pipelines.

The way the data goes: `sources` opens a dataset and reads examples by index,
`randomness` says which example and which draws belong to a position in the
run, `crop` which part of it is shown, `decoding` gets its pixels, `render`
makes views of them, and `pipeline` makes batches.
"""

from byol_jax import quiet_tensorflow  # noqa: F401

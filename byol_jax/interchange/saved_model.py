"""An encoder as a SavedModel of TensorFlow, by `jax2tf`.

The program within is StableHLO (TensorFlow's XlaCallModule) for CPU, CUDA and
TPU; the weights are variables beside it.
"""

import os
import pathlib

import jax

from byol_jax.interchange import model_card
from byol_jax.interchange import portable
from byol_jax.interchange import pretrained as pretrained_lib

_USAGE = """\
```python
import tensorflow as tf

module = tf.saved_model.load('.')  # this folder


def encode(images):
  \"\"\"Maps float32 {size} to [B, {embedding_size}].\"\"\"
  return module.encode(tf.convert_to_tensor(images, tf.float32))
```

The signature `serving_default` maps `images` to `embeddings`. The encoder is
frozen: it has no gradient.

{note}"""


def check(encoder: pretrained_lib.Pretrained) -> None:
  """Every encoder can be written."""
  del encoder


def write(
    folder: str | pathlib.Path, encoder: pretrained_lib.Pretrained) -> None:
  """Writes an encoder into a folder that is there, and reads it again.

  Raises:
    ConfigError: if what was written computes something else.
  """
  from jax.experimental import jax2tf

  from byol_jax import quiet_tensorflow
  from byol_jax.quiet_tensorflow import tf
  quiet_tensorflow.start_compiler()
  any_size = portable.takes_any_size(encoder)
  size = None if any_size else encoder.image_size
  converted = jax2tf.convert(
      portable.make_encode(encoder), with_gradient=False,
      polymorphic_shapes=[None, f'({portable.symbolic_shape(encoder)})'],
      polymorphic_constraints=(
          ['height >= 1', 'width >= 1'] if any_size else ()),
      native_serialization_platforms=portable.PLATFORMS)
  variables = jax.tree_util.tree_map_with_path(
      lambda path, leaf: tf.Variable(
          leaf, trainable=False, name=jax.tree_util.keystr(
              path, simple=True, separator='/')),
      portable.encoder_variables(encoder))
  module = tf.Module()
  module.weights = variables
  module.encode = tf.function(
      lambda images: converted(variables, images),
      input_signature=[tf.TensorSpec(
          (None, size, size, encoder.num_channels), tf.float32, 'images')],
      autograph=False)
  serve = tf.function(
      lambda images: {'embeddings': module.encode(images)},
      input_signature=module.encode.input_signature, autograph=False)
  tf.saved_model.save(module, os.fspath(folder), signatures=serve)

  loaded = tf.saved_model.load(os.fspath(folder))
  difference = portable.check_agreement(encoder, loaded.encode, 'savedmodel')
  words = portable.describe_size(encoder)
  model_card.write(
      folder, encoder, kind='savedmodel', size=words,
      usage=_USAGE.format(
          size=words.partition(', and no')[0],
          embedding_size=encoder.embedding_size,
          note=portable.agreement_note(difference)),
      facts={'platforms': list(portable.PLATFORMS)})

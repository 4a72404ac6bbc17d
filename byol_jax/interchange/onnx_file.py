"""An encoder as an ONNX model, by tf2onnx.

tf2onnx (of the ONNX project) reads TensorFlow's operations, which
`tensorflow_graph` makes of the encoder. Number of images open, height and width
fixed.
"""

import os
import pathlib
from typing import Any

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.interchange import model_card
from byol_jax.interchange import portable
from byol_jax.interchange import pretrained as pretrained_lib

MODEL = 'encoder.onnx'
# Of 2022: what runtimes of today and of some years ago read.
_OPSET = 17

_USAGE = """\
```python
import onnxruntime

session = onnxruntime.InferenceSession('{model}')


def encode(images):
  \"\"\"Maps float32 {size} to [B, {embedding_size}].\"\"\"
  return session.run(['embeddings'], {{'images': images}})[0]
```

ONNX opset {opset}.

{note}"""


def check(encoder: pretrained_lib.Pretrained) -> None:
  """Raises ConfigError if what makes or checks the file is not installed."""
  _import()
  if encoder.config.encoder not in config_rules.ENCODERS:
    raise config_lib.ConfigError(
        f'format onnx is for the encoders {", ".join(config_rules.ENCODERS)}, '
        f'found {encoder.config.encoder!r}; formats flax, stablehlo and '
        'savedmodel can express a module of your own')


def write(
    folder: str | pathlib.Path, encoder: pretrained_lib.Pretrained) -> None:
  """Writes an encoder into a folder that is there, and reads it again.

  Raises:
    ConfigError: if tf2onnx or onnxruntime is missing, or if what was written
      computes something else.
  """
  tf2onnx, onnxruntime = _import()
  from byol_jax.interchange import tensorflow_graph
  from byol_jax.quiet_tensorflow import tf
  check(encoder)
  encode = portable.make_encode(encoder)
  variables = portable.encoder_variables(encoder)
  size, channels = encoder.image_size, encoder.num_channels
  replay = tensorflow_graph.convert(
      lambda images: encode(variables, images), (size, size, channels))

  @tf.function(autograph=False)
  def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
    return {'embeddings': replay(images)}

  path = os.fspath(pathlib.Path(folder) / MODEL)
  spec = tf.TensorSpec((None, size, size, channels), tf.float32, 'images')
  tf2onnx.convert.from_function(
      embed, [spec], opset=_OPSET, output_path=path)
  session = onnxruntime.InferenceSession(
      path, providers=['CPUExecutionProvider'])
  difference = portable.check_agreement(
      encoder,
      lambda images: session.run(['embeddings'], {'images': images})[0],
      'onnx')
  shape = f'[B, {size}, {size}, {channels}]'
  model_card.write(
      folder, encoder, kind='onnx',
      size=f'{shape}, and no other size (export again with --image_size for '
           'another)',
      usage=_USAGE.format(
          model=MODEL, size=shape, embedding_size=encoder.embedding_size,
          opset=_OPSET, note=portable.agreement_note(difference)),
      facts={'opset': _OPSET})


def _import() -> tuple[Any, Any]:
  try:
    import onnxruntime
    import tf2onnx
  except ImportError as error:
    raise config_lib.ConfigError(
        f'format onnx needs {error.name}, which is not installed: '
        "pip install 'byol_jax[onnx]', or pip install tf2onnx onnxruntime"
    ) from None
  return tf2onnx, onnxruntime

"""An encoder as one file of StableHLO, by `jax.export`.

The file holds the program, the weights and what calling it needs, for CPU, CUDA
and TPU, with the number of images open, and height and width too where padding
does not depend on them.
"""

import pathlib

import jax
from jax import export
import jax.numpy as jnp

from byol_jax.interchange import model_card
from byol_jax.interchange import portable
from byol_jax.interchange import pretrained as pretrained_lib

PROGRAM = 'encoder.stablehlo'

_USAGE = """\
```python
import pathlib

from jax import export

program = export.deserialize(
    bytearray(pathlib.Path('{program}').read_bytes()))


def encode(images):
  \"\"\"Maps float32 {size} to [B, {embedding_size}].\"\"\"
  return program.call(images)
```

It runs on {platforms}, needs JAX alone, and was written by JAX {version}; JAX
reads such files for at least six months after. `program.mlir_module()` is its
text.

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
  path = pathlib.Path(folder) / PROGRAM
  encode = portable.make_encode(encoder)
  variables = portable.encoder_variables(encoder)
  shape = export.symbolic_shape(
      portable.symbolic_shape(encoder),
      constraints=['height >= 1', 'width >= 1'] if portable.takes_any_size(
          encoder) else ())
  exported = export.export(
      jax.jit(lambda images: encode(variables, images)),
      platforms=portable.PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.float32))
  path.write_bytes(exported.serialize())
  program = export.deserialize(bytearray(path.read_bytes()))
  difference = portable.check_agreement(encoder, program.call, 'stablehlo')
  size = portable.describe_size(encoder)
  model_card.write(
      folder, encoder, kind='stablehlo', size=size,
      usage=_USAGE.format(
          program=PROGRAM, size=size.partition(', and no')[0],
          embedding_size=encoder.embedding_size,
          platforms=', '.join(portable.PLATFORMS), version=jax.__version__,
          note=portable.agreement_note(difference)),
      facts={'platforms': list(portable.PLATFORMS)})

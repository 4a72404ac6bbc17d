"""Writes a pretrained encoder for another world.

    python -m byol_jax.export --checkpoint=WORKDIR --format=F --output=DIR

| format | what DIR then holds, beside its card (README.md) and config.json |
|---|---|
| `torch` | safetensors in torchvision's names; timm reads the folder |
| `flax` | safetensors that `byol_jax.load_encoder` reads |
| `stablehlo` | one program for CPU, CUDA and TPU, by `jax.export` |
| `savedmodel` | TensorFlow's SavedModel |
| `onnx` | an ONNX model |
| `detectron2` | a backbone in Detectron2's names |

It is the online encoder, as `byol_jax.load_encoder` gives it. What a format
cannot express is refused, with the formats that can.
"""

from collections.abc import Sequence
import importlib
import pathlib

from absl import flags

from byol_jax import compilation_cache
from byol_jax import config as config_lib
from byol_jax import jobs
from byol_jax import places

# The module of interchange/ that writes each.
_WRITERS = {
    'torch': 'torch_folder', 'flax': 'flax_folder',
    'stablehlo': 'stablehlo_file', 'savedmodel': 'saved_model',
    'onnx': 'onnx_file', 'detectron2': 'detectron2_file'}

_CHECKPOINT = flags.DEFINE_string(
    'checkpoint', None, 'Workdir of a byol_jax.pretrain run.')
_FORMAT = flags.DEFINE_enum(
    'format', 'torch', sorted(_WRITERS), 'Of the files that are written.')
_OUTPUT = flags.DEFINE_string(
    'output', None, 'The folder to write; made if it is not there.')
_LICENCE = flags.DEFINE_string(
    'licence', '', 'Of the weights, for the card; the default is what an '
    'imported checkpoint says.')
_IMAGE_SIZE = flags.DEFINE_integer(
    'image_size', None, 'Pixels, where a format fixes them; the default is '
    'the size that the run is evaluated at.', lower_bound=1)


def main(_: Sequence[str]) -> None:
  """Restores and writes."""
  if '://' in _OUTPUT.value:
    raise config_lib.ConfigError(
        f'--output={_OUTPUT.value}: exports are written to a disk, where they '
        'are loaded and compared; copy the folder there afterwards')
  places.check_checkpoints(_CHECKPOINT.value)
  # Imported here, so that --help does not wait for JAX.
  from byol_jax.interchange import output_folder
  from byol_jax.interchange import pretrained
  writer = importlib.import_module(
      f'byol_jax.interchange.{_WRITERS[_FORMAT.value]}')
  folder = pathlib.Path(_OUTPUT.value).absolute()
  output_folder.check(folder, _FORMAT.value)
  compilation_cache.use()
  encoder = pretrained.restore(
      _CHECKPOINT.value, image_size=_IMAGE_SIZE.value, licence=_LICENCE.value)
  writer.check(encoder)
  # What does not agree with the encoder leaves nothing that could be used.
  with output_folder.fill(folder) as made:
    writer.write(made, encoder)
  print(f'wrote {folder}: its README.md says how to load it')


if __name__ == '__main__':
  flags.mark_flags_as_required(['checkpoint', 'output'])
  jobs.run(main)

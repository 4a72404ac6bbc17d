"""Writes a pretrained encoder in another world's format.

    python -m byol_jax.export --checkpoint=WORKDIR --format=torch --output=DIR

`torch` makes a folder of safetensors in the names of torchvision's ResNet,
with the lines that load it in its README.md. It is the online encoder, as
`byol_jax.load_encoder` gives it. What a format cannot express is refused.
"""

from collections.abc import Sequence

from absl import flags

from byol_jax import jobs

_CHECKPOINT = flags.DEFINE_string(
    'checkpoint', None, 'Workdir of a byol_jax.pretrain run.')
_FORMAT = flags.DEFINE_enum(
    'format', 'torch', ['torch'], 'Of the files that are written.')
_OUTPUT = flags.DEFINE_string(
    'output', None, 'The folder to write; made if it is not there.')


def main(_: Sequence[str]) -> None:
  """Restores and writes."""
  # Imported here, so that --help does not wait for JAX.
  from byol_jax.evaluation import features
  from byol_jax.interchange import torch_folder
  from byol_jax.training import checkpoint
  config, _, state = checkpoint.restore_workdir(_CHECKPOINT.value)
  torch_folder.write(
      _OUTPUT.value, config, features.online_variables(state),
      step=int(state.step))
  print(f'wrote {_OUTPUT.value}: its README.md says how to load it')


if __name__ == '__main__':
  flags.mark_flags_as_required(['checkpoint', 'output'])
  jobs.run(main)

"""The folder in which an encoder travels to PyTorch.

    model.safetensors   a state dict of torchvision's ResNet, but for `fc`
    config.json         what it is, in the keys of timm's folders, and `run`
    README.md           the lines that load it

timm reads the folder of an encoder that its own model of that name is, with
`timm.create_model('local-dir:FOLDER', pretrained=True)`.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import ml_collections
import safetensors.numpy

from byol_jax import config as config_lib
from byol_jax.interchange import torch_layout
from byol_jax.networks import resnet

WEIGHTS = 'model.safetensors'

_README = """\
# {encoder}, pretrained by byol_jax

Images to embeddings of {embedding_size} numbers; no classifier. It was \
pretrained for
{step} steps at {image_size} pixels, normalisation `{norm}`. In this folder:

```python
{code}```

{note}The settings of the run are in `config.json`.
"""

_CODE = """\
import functools

import safetensors.torch
import torch
from torchvision.models import resnet

encoder = resnet.ResNet(
    resnet.{block}, {layers},
    norm_layer={norm_layer})
{stem}encoder.fc = torch.nn.Identity()
encoder.load_state_dict(safetensors.torch.load_file('{weights}'))
encoder.eval()

mean = torch.tensor({mean}).view(3, 1, 1)
std = torch.tensor({std}).view(3, 1, 1)


def encode(images):
  \"\"\"Maps float [B, 3, H, W] in [0, 1] to [B, {embedding_size}].\"\"\"
  with torch.no_grad():
    return encoder((images - mean) / std)
"""

_SMALL_STEM = """\
encoder.conv1 = torch.nn.Conv2d(
    3, 64, {kernel}, stride={stride}, padding={padding}, bias=False)
encoder.maxpool = torch.nn.Identity()
"""

# What evaluation mode hides.
_NOTES = {
    'affine_init': (
        'Its normalisation layers hold a scale and an offset, and statistics '
        'that change\nnothing. Keep them in evaluation mode when you train '
        'it further.\n\n'),
    'group_ws': (
        'Its kernels were standardised at every step of pretraining, and are '
        'stored as\nstandardised: training it further trains them as they '
        'are.\n\n')}


def loading_code(config: ml_collections.ConfigDict) -> str:
  """Python that defines `encode` from the weights in the current directory."""
  stem = ''
  if config.resnet.stem != 'imagenet':
    kernel, stride = resnet.STEMS[config.resnet.stem]
    stem = _SMALL_STEM.format(
        kernel=kernel, stride=stride, padding=kernel // 2)
  return _CODE.format(
      block='Bottleneck' if torch_layout.is_bottleneck(config) else
      'BasicBlock',
      layers=list(torch_layout.layers(config)),
      norm_layer=torch_layout.norm_layer(config), stem=stem, weights=WEIGHTS,
      mean=list(config.augment.mean), std=list(config.augment.std),
      embedding_size=torch_layout.embedding_size(config))


def is_timm_model(config: ml_collections.ConfigDict) -> bool:
  """Whether timm's `resnetN` is this encoder, to the epsilon."""
  norm = config.encoder_norm
  return (
      config.encoder != 'resnet10' and config.resnet.stem == 'imagenet'
      and (norm == 'affine_init' or config.norm_epsilon == 1e-5
           and norm in ('batch', 'batch_local')))


def describe(config: ml_collections.ConfigDict, step: int) -> dict[str, Any]:
  """What config.json holds.

  Where timm's model of the name would be another, the name is one that timm
  does not know.
  """
  prefix = '' if is_timm_model(config) else 'byol_jax_'
  size = config.test_image_size or config.image_size
  return {
      'architecture': prefix + config.encoder,
      'num_classes': 0,
      'num_features': torch_layout.embedding_size(config),
      'global_pool': 'avg',
      'pretrained_cfg': {
          'input_size': [3, size, size],
          'mean': list(config.augment.mean),
          'std': list(config.augment.std),
          'crop_pct': config.test_crop_ratio,
          'crop_mode': 'center',
          'interpolation': 'bicubic',
          'num_classes': 0,
          'first_conv': 'conv1',
          'classifier': 'fc',
      },
      'run': {'step': step, 'config': config_lib.to_dict(config)},
  }


def write(
    folder: str, config: ml_collections.ConfigDict,
    variables: Mapping[str, Any], *, step: int,
) -> None:
  """Writes an encoder into `folder`, which is made if it is not there.

  The weights are float32, and meant to be applied so; a run that computed in
  bfloat16 agrees with them to that type's rounding.

  Args:
    folder: its files of these names are replaced.
    config: of the run.
    variables: `params` and `batch_stats` of the online network.
    step: of the checkpoint.

  Raises:
    ConfigError: if torchvision has no such encoder; nothing is written then.
    OSError: if the folder cannot be written.
  """
  arrays = torch_layout.state_dict(config, variables)
  path = pathlib.Path(folder)
  path.mkdir(parents=True, exist_ok=True)
  (path / WEIGHTS).write_bytes(
      safetensors.numpy.save(arrays, metadata={'format': 'pt'}))
  (path / 'config.json').write_text(
      json.dumps(describe(config, step), indent=2) + '\n')
  (path / 'README.md').write_text(_README.format(
      encoder=config.encoder, step=step, norm=config.encoder_norm,
      image_size=config.image_size, code=loading_code(config),
      embedding_size=torch_layout.embedding_size(config),
      note=_NOTES.get(config.encoder_norm, '')))

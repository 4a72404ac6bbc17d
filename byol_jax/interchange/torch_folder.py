"""The folder in which an encoder travels to PyTorch.

    model.safetensors   a state dict of torchvision's ResNet; `fc` is the online
                        probe, where the run had labels for one
    config.json         what it is, in the keys of timm's folders, and `run`
    README.md           its card, with the lines that load it

timm reads the folder of an encoder that its own model of that name is, with
`timm.create_model('local-dir:FOLDER', pretrained=True, num_classes=0)`.
"""

import pathlib
from typing import Any

import ml_collections
import safetensors.numpy

from byol_jax.interchange import model_card
from byol_jax.interchange import pretrained as pretrained_lib
from byol_jax.interchange import torch_layout
from byol_jax.networks import resnet

WEIGHTS = 'model.safetensors'

_USAGE = """\
In this folder:

```python
{code}```

{timm}{note}"""

_TIMM = """\
Or with timm:

```python
import timm

encoder = timm.create_model(
    'local-dir:.', pretrained=True, num_classes=0).eval()
```

timm reads mean, standard deviation, crop and interpolation from `config.json`
(`timm.data.resolve_data_config`){logits}.

"""

_CODE = """\
import functools

import safetensors.torch
import torch
from torchvision.models import resnet

encoder = resnet.ResNet(
    resnet.{block}, {layers},
    norm_layer={norm_layer}{num_classes})
{stem}{no_classifier}encoder.load_state_dict(safetensors.torch.load_file('{weights}'))
{classifier}encoder.eval()

mean = torch.tensor({mean}).view(3, 1, 1)
std = torch.tensor({std}).view(3, 1, 1)


def encode(images):
  \"\"\"Maps float [B, 3, H, W] in [0, 1] to [B, {embedding_size}].\"\"\"
  with torch.no_grad():
    return encoder((images - mean) / std)
"""

_CLASSIFY = """

def classify(images):
  \"\"\"The online probe's logits [B, {num_classes}], of the same images.\"\"\"
  with torch.no_grad():
    return classifier(encode(images))
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


def check(encoder: pretrained_lib.Pretrained) -> None:
  """Raises ConfigError if torchvision has no such encoder."""
  torch_layout.check_expressible(encoder.config)


def write(
    folder: str | pathlib.Path, encoder: pretrained_lib.Pretrained) -> None:
  """Writes an encoder into a folder that is there.

  The weights are float32, and meant to be applied so; a run that computed in
  bfloat16 agrees with them to that type's rounding.

  Raises:
    ConfigError: if torchvision has no such encoder; nothing is written then.
  """
  arrays = torch_layout.state_dict(encoder.config, encoder.variables)
  (pathlib.Path(folder) / WEIGHTS).write_bytes(
      safetensors.numpy.save(arrays, metadata={'format': 'pt'}))
  timm = _TIMM.format(
      logits='' if encoder.num_classes is None else
      '; without `num_classes=0` it\ngives the logits of the online probe')
  model_card.write(
      folder, encoder, kind='torch', normalised=False,
      size='[B, 3, H, W], any size',
      usage=_USAGE.format(
          code=loading_code(encoder),
          timm=timm if is_timm_model(encoder.config) else '',
          note=_NOTES.get(encoder.config.encoder_norm, '')),
      facts=describe(encoder))


def loading_code(encoder: pretrained_lib.Pretrained) -> str:
  """Python that defines `encode` from the weights in the current directory."""
  config, num_classes = encoder.config, encoder.num_classes
  stem = ''
  if config.resnet.stem != 'imagenet':
    kernel, stride = resnet.STEMS[config.resnet.stem]
    stem = _SMALL_STEM.format(
        kernel=kernel, stride=stride, padding=kernel // 2)
  probed = num_classes is not None
  code = _CODE.format(
      block='Bottleneck' if torch_layout.is_bottleneck(config) else
      'BasicBlock',
      layers=list(torch_layout.layers(config)),
      norm_layer=torch_layout.norm_layer(config), stem=stem, weights=WEIGHTS,
      num_classes=f', num_classes={num_classes}' if probed else '',
      no_classifier='' if probed else 'encoder.fc = torch.nn.Identity()\n',
      classifier='classifier, encoder.fc = encoder.fc, torch.nn.Identity()\n'
      if probed else '',
      mean=list(config.augment.mean), std=list(config.augment.std),
      embedding_size=torch_layout.embedding_size(config))
  return code + (
      _CLASSIFY.format(num_classes=num_classes) if probed else '')


def is_timm_model(config: ml_collections.ConfigDict) -> bool:
  """Whether timm's `resnetN` is this encoder, to the epsilon."""
  norm = config.encoder_norm
  return (
      config.encoder != 'resnet10' and config.resnet.stem == 'imagenet'
      and (norm == 'affine_init' or config.norm_epsilon == 1e-5
           and norm in ('batch', 'batch_local')))


def describe(encoder: pretrained_lib.Pretrained) -> dict[str, Any]:
  """What config.json holds for timm.

  Where timm's model of the name would be another, the name is one that timm
  does not know.
  """
  config = encoder.config
  prefix = '' if is_timm_model(config) else 'byol_jax_'
  num_classes = encoder.num_classes or 0
  return {
      'architecture': prefix + config.encoder,
      'num_classes': num_classes,
      'num_features': torch_layout.embedding_size(config),
      'global_pool': 'avg',
      'pretrained_cfg': {
          'input_size': [3, encoder.image_size, encoder.image_size],
          'mean': list(config.augment.mean),
          'std': list(config.augment.std),
          'crop_pct': config.test_crop_ratio,
          'crop_mode': 'center',
          'interpolation': 'bicubic',
          'num_classes': num_classes,
          'first_conv': 'conv1',
          'classifier': 'fc',
      },
  }

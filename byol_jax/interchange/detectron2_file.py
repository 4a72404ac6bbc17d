"""An encoder as the backbone that Detectron2 reads.

Detectron2 names a ResNet's modules `stem.conv1`, `res2.0.conv1`, ... with each
convolution's norm within it. Its model files are pickles of NumPy arrays, which
its checkpointer matches to the detector's own names by their endings
(`matching_heuristics`); a checkpoint with these keys is what its own
convert-torchvision-to-d2.py makes.

Its FrozenBN and GN have an epsilon of 1e-5, and GN has 32 groups. Another
epsilon of batch normalisation is moved into the running variances, which gives
the same numbers as long as they are frozen.
"""

import pathlib
import pickle
import re

import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax.interchange import model_card
from byol_jax.interchange import pretrained as pretrained_lib
from byol_jax.interchange import torch_layout

WEIGHTS = 'backbone.pkl'
_DEPTHS = (18, 34, 50, 101, 152)
_EPSILON = 1e-5
_NUM_GROUPS = 32
_BATCH_NORMS = ('batch', 'batch_local', 'affine_init')

_USAGE = """\
In the config of a detector of Detectron2:

```yaml
MODEL:
  WEIGHTS: /path/of/this/folder/{weights}
  PIXEL_MEAN: {mean}  # of images in [0, 255]
  PIXEL_STD: {std}
  RESNETS:
    DEPTH: {depth}
    NORM: {norm}
    STRIDE_IN_1X1: false
{narrow}INPUT:
  FORMAT: RGB
```

Heads, and an FPN if there is one, start at random: what the checkpointer says
of them is expected. Every name of the backbone has to be found.
"""


def check(encoder: pretrained_lib.Pretrained) -> None:
  """Raises ConfigError, with the reason, for what Detectron2 cannot build."""
  config = encoder.config
  try:
    torch_layout.check_expressible(config)
  except config_lib.ConfigError as error:
    raise config_lib.ConfigError(str(error).replace(
        'format torch ', 'format detectron2 ', 1)) from None
  norm = config.encoder_norm
  if torch_layout.depth(config) not in _DEPTHS:
    reason = (
        f'config.encoder is {config.encoder!r}, expected a depth of '
        f'{", ".join(map(str, _DEPTHS))}')
  elif config.resnet.stem != 'imagenet':
    reason = (
        f'config.resnet.stem is {config.resnet.stem!r}, expected imagenet')
  elif norm == 'group_ws' and (
      config.norm_groups, config.norm_epsilon) != (_NUM_GROUPS, _EPSILON):
    reason = (
        f'config.norm_groups is {config.norm_groups} and config.norm_epsilon '
        f"{config.norm_epsilon:g}, and Detectron2's GN has {_NUM_GROUPS} "
        f'groups and {_EPSILON:g}')
  elif norm not in (*_BATCH_NORMS, 'group_ws', 'none'):
    reason = (
        f'config.encoder_norm is {norm!r}, which Detectron2 has not, expected '
        f'one of {", ".join(_BATCH_NORMS)}, group_ws, none')
  else:
    return
  raise config_lib.ConfigError(
      f'format detectron2 cannot express this encoder: {reason}; format torch '
      'can, and docs/detection.md takes it to a detector of torchvision')


def write(
    folder: str | pathlib.Path, encoder: pretrained_lib.Pretrained) -> None:
  """Writes an encoder into a folder that is there.

  Raises:
    ConfigError: see `check`.
  """
  check(encoder)
  config = encoder.config
  with open(pathlib.Path(folder) / WEIGHTS, 'wb') as file:
    # Protocol 4 is what every Python that Detectron2 runs on reads.
    pickle.dump({
        'model': state_dict(encoder), '__author__': 'byol_jax',
        'matching_heuristics': True}, file, protocol=4)
  model_card.write(
      folder, encoder, kind='detectron2', normalised=False,
      size="[B, 3, H, W], any size, as Detectron2's reader makes them",
      usage=_USAGE.format(
          weights=WEIGHTS, depth=torch_layout.depth(config),
          mean=_pixels(config.augment.mean), std=_pixels(config.augment.std),
          norm=_norm(config),
          narrow='' if torch_layout.is_bottleneck(config) else
          '    RES2_OUT_CHANNELS: 64\n'))


def state_dict(encoder: pretrained_lib.Pretrained) -> dict[str, np.ndarray]:
  """The backbone's weights f32 by Detectron2's names."""
  arrays = {
      rename(name): array for name, array in torch_layout.state_dict(
          encoder.config, encoder.variables).items()
      if not name.startswith('fc.')
      and not name.endswith('num_batches_tracked')}
  if encoder.config.encoder_norm in ('batch', 'batch_local'):
    shift = np.float32(encoder.config.norm_epsilon - _EPSILON)
    arrays |= {
        name: array + shift for name, array in arrays.items()
        if name.endswith('running_var')}
  return arrays


def rename(name: str) -> str:
  """'layer1.0.bn2.weight' to 'res2.0.conv2.norm.weight'."""
  name = re.sub(
      r'^layer(\d)', lambda match: f'res{int(match[1]) + 1}', name)
  name = re.sub(r'\bbn(\d)\b', r'conv\1.norm', name)
  name = name.replace('downsample.0', 'shortcut')
  name = name.replace('downsample.1', 'shortcut.norm')
  return name if name.startswith('res') else f'stem.{name}'


def _norm(config: ml_collections.ConfigDict) -> str:
  """Detectron2's name of the norm."""
  if config.encoder_norm in _BATCH_NORMS:
    return 'FrozenBN'
  return {'group_ws': 'GN', 'none': '""'}[config.encoder_norm]


def _pixels(values: tuple[float, ...]) -> list[float]:
  return [round(255 * value, 3) for value in values]

"""Our ResNet's weights as a state dict of torchvision's ResNet.

`torchvision.models.resnet.ResNet` takes a maker of normalisation layers, so
that every `config.encoder_norm` has its exact counterpart in evaluation mode:

| encoder_norm | norm_layer | weights |
|---|---|---|
| `batch`, `batch_local` | `BatchNorm2d` | with running statistics |
| `group_ws` | `GroupNorm(norm_groups, C)` | kernels as standardised |
| `layer` | `GroupNorm(1, C)` | as they are |
| `instance` | `GroupNorm(C, C)` | as they are |
| `affine_init` | `BatchNorm2d` | statistics that divide by one |
| `none` | `Identity` | as they are |

`InstanceNorm2d` refuses feature maps of one pixel; `GroupNorm` does not. The
stems for small pictures are two modules of torchvision's ResNet exchanged. Its
paddings, shortcuts and widths are fixed: what differs in them is refused.

Nothing here needs torch.
"""

from collections.abc import Mapping
import re
from typing import Any

from flax import traverse_util
import jax
import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.networks import resnet
from byol_jax.networks import weight_standardization

_BLOCK = re.compile(r'group(\d+)_block(\d+)')
_MODULES = {
    'stem_conv': 'conv1', 'stem_norm': 'bn1',
    'shortcut_conv': 'downsample.0', 'shortcut_norm': 'downsample.1'}
_LEAVES = {
    'kernel': 'weight', 'scale': 'weight', 'bias': 'bias',
    'mean': 'running_mean', 'var': 'running_var'}
# BatchNorm2d's own, so that `affine_init` needs no other norm_layer.
TORCH_EPSILON = 1e-5
_BASE_CHANNELS = 64


def depth(config: ml_collections.ConfigDict) -> int:
  """50 of `resnet50`."""
  return int(config.encoder.removeprefix('resnet'))


def is_bottleneck(config: ml_collections.ConfigDict) -> bool:
  """Whether the blocks are torchvision's Bottleneck, else its BasicBlock."""
  return depth(config) in resnet.BOTTLENECK_DEPTHS


def layers(config: ml_collections.ConfigDict) -> tuple[int, ...]:
  """The number of blocks in each of `layer1` to `layer4`."""
  return (resnet.BASIC_DEPTHS | resnet.BOTTLENECK_DEPTHS)[depth(config)]


def embedding_size(config: ml_collections.ConfigDict) -> int:
  """Of the encoders that can be expressed."""
  return _BASE_CHANNELS * 8 * (4 if is_bottleneck(config) else 1)


def check_expressible(config: ml_collections.ConfigDict) -> None:
  """Raises ConfigError, with the reason, for what torchvision cannot build."""
  settings = config.resnet
  if config.encoder not in config_rules.ENCODERS:
    reason = (
        f'config.encoder is {config.encoder!r}, a module of your own; expected '
        f'one of {", ".join(config_rules.ENCODERS)}')
  elif settings.padding != 'torch':
    reason = (
        f'config.resnet.padding is {settings.padding!r}, and torch pads both '
        'sides alike; expected torch')
  elif settings.projection_shortcut != 'shape' and not is_bottleneck(config):
    reason = (
        'config.resnet.projection_shortcut is '
        f'{settings.projection_shortcut!r}, and the first block of '
        f"torchvision's {config.encoder} has no projection; expected shape")
  elif settings.channels_per_group:
    reason = (
        'config.resnet.channels_per_group is '
        f"{settings.channels_per_group}, and torchvision's are 64, 128, 256 "
        'and 512; expected ()')
  elif round(_BASE_CHANNELS * settings.width) != _BASE_CHANNELS:
    reason = (
        f"config.resnet.width is {settings.width:g}, and torchvision's wide "
        'ResNets widen only the inner convolutions; expected 1')
  else:
    return
  raise config_lib.ConfigError(
      f'format torch cannot express this encoder: {reason}; formats flax, '
      'stablehlo, savedmodel and onnx can')


def norm_layer(config: ml_collections.ConfigDict) -> str:
  """The Python expression of torchvision's `norm_layer`, see the table."""
  kind, epsilon = config.encoder_norm, f'eps={config.norm_epsilon!r}'
  if kind in ('batch', 'batch_local'):
    momentum = f'momentum={1 - config.batch_norm_momentum:g}'
    return f'functools.partial(torch.nn.BatchNorm2d, {epsilon}, {momentum})'
  if kind == 'affine_init':
    return f'functools.partial(torch.nn.BatchNorm2d, eps={TORCH_EPSILON!r})'
  if kind == 'none':
    return 'torch.nn.Identity'
  if kind == 'instance':
    return f'lambda channels: torch.nn.GroupNorm(channels, channels, {epsilon})'
  groups = {'group_ws': config.norm_groups, 'layer': 1}[kind]
  return f'functools.partial(torch.nn.GroupNorm, {groups}, {epsilon})'


def state_dict(
    config: ml_collections.ConfigDict, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """The encoder's weights by torchvision's names; the online probe is `fc`.

  Args:
    config: of the run.
    variables: `params` and `batch_stats` of the online network.

  Returns:
    f32 arrays, kernels as [outputs, inputs, H, W]; and i64[] counters where
    torch's layer has them.

  Raises:
    ConfigError: see `check_expressible`.
  """
  check_expressible(config)
  encoder = {
      name: tree['encoder'] for name, tree in variables.items()
      if 'encoder' in tree}
  if config.encoder_norm == 'group_ws':
    encoder['params'] = _standardized(
        encoder['params'], config.weight_standardization_epsilon)
  arrays = {}
  for tree in encoder.values():
    for path, leaf in traverse_util.flatten_dict(tree).items():
      if path[-1] == 'kernel':
        leaf = np.transpose(leaf, (3, 2, 0, 1))
      arrays[_name(path)] = np.ascontiguousarray(leaf, np.float32)
  if config.encoder_norm == 'affine_init':
    arrays |= _unit_statistics(arrays)
  if probe := variables['params'].get('probe'):
    arrays['fc.weight'] = np.ascontiguousarray(
        np.transpose(probe['kernel']), np.float32)
    arrays['fc.bias'] = np.asarray(probe['bias'], np.float32)
  counters = {
      name.replace('running_mean', 'num_batches_tracked'): np.zeros(
          (), np.int64)
      for name in arrays if name.endswith('running_mean')}
  return arrays | counters


def _name(path: tuple[str, ...]) -> str:
  """('group1_block2', 'norm1', 'scale') to 'layer1.1.bn1.weight'."""
  *blocks, module, leaf = path
  prefix = ''
  for block in blocks:
    group, index = _BLOCK.fullmatch(block).groups()
    prefix = f'layer{group}.{int(index) - 1}.'
  module = _MODULES.get(module) or module.replace('norm', 'bn')
  return f'{prefix}{module}.{_LEAVES[leaf]}'


@jax.jit
def _standardized(params: Any, epsilon: jax.Array) -> Any:
  """The parameters, with kernels as they are applied."""
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: weight_standardization.standardize(leaf, epsilon)
      if path[-1].key == 'kernel' else leaf, params)


def _unit_statistics(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Running statistics under which BatchNorm2d is x * weight + bias."""
  statistics = {}
  for name, bias in arrays.items():
    module, _, leaf = name.rpartition('.')
    if leaf == 'bias':
      statistics[f'{module}.running_mean'] = np.zeros_like(bias)
      statistics[f'{module}.running_var'] = np.full_like(
          bias, 1 - TORCH_EPSILON)
  return statistics

"""The names that DeepMind's original (Haiku) gives to parameters."""

import re

_HEAD = re.compile(r'(projector|predictor)/(linear|batch_norm)(_1)?')
_ENCODER = r'(?:tiny_res_net|res_net\d{2,3})/~/'
_STEM = re.compile(_ENCODER + r'initial_(conv|batchnorm)(?:_1)?')
_BLOCK = re.compile(
    _ENCODER + r'block_group_(\d)/~/block_(\d{1,3})/~/'
    r'(?:shortcut_(conv|batchnorm)|(conv|batchnorm)_(\d))')
# Haiku's name of a parameter: ours.
PARAMETER_KEYS = {
    'w': 'kernel', 'b': 'bias', 'scale': 'scale', 'offset': 'bias'}


def module_path(module: str) -> tuple[str, ...]:
  """The path of a Haiku module in our trees.

  Args:
    module: such as `res_net50/~/block_group_0/~/block_1/~/conv_0`. Names of
      2020 end the stem's with `_1`.

  Returns:
    Such as `('encoder', 'group1_block2', 'conv1')`.

  Raises:
    KeyError: if the original has no such module.
  """
  if module == 'classifier':
    return ('probe',)
  if match := _HEAD.fullmatch(module):
    part, kind, second = match.groups()
    layer = '2' if second else '1'
    return part, ('dense' if kind == 'linear' else 'norm') + layer
  if match := _STEM.fullmatch(module):
    return 'encoder', 'stem_' + _kind(match[1])
  if match := _BLOCK.fullmatch(module):
    group, block, shortcut, kind, index = match.groups()
    layer = (
        'shortcut_' + _kind(shortcut) if shortcut
        else f'{_kind(kind)}{int(index) + 1}')
    return 'encoder', f'group{int(group) + 1}_block{int(block) + 1}', layer
  raise KeyError(f'no module of the original is named {module!r}')


def parameter_path(module: str, key: str) -> tuple[str, ...]:
  """The path of parameter `key` (w, b, scale, offset) of a Haiku module."""
  return *module_path(module), PARAMETER_KEYS[key]


def _kind(name: str) -> str:
  return 'conv' if name == 'conv' else 'norm'

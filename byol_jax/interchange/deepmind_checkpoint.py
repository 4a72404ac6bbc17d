"""A checkpoint of DeepMind's original as a config and a state of ours.

What comes over: parameters of the online network with its classifier, and of
the target's encoder and projector (what else the original's target holds is
read by nothing); LARS's momentum; running statistics; the step.

- A running statistic is the original's zero-debiased `average`, which is what
  it evaluates with. Ours have no such debiasing: an average of fewer than some
  50 steps goes on as if it were an old one.
- The original saves the number of a step after taking it and before counting
  it, but its last checkpoint after. What its batch normalisation has counted,
  two views an update, tells the two apart.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from flax import traverse_util
import jax
import ml_collections
import numpy as np
import optax

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.interchange import deepmind
from byol_jax.interchange import restricted_pickle
from byol_jax.networks import network as network_lib
from byol_jax.networks import resnet
from byol_jax.training import optimizers
from byol_jax.training import state as state_lib

# By path: ('encoder', 'stem_conv', 'kernel').
_Flat = dict[tuple[str, ...], np.ndarray]

_FIELDS = (
    'online_params', 'target_params', 'online_state', 'target_state',
    'opt_state')
_BLOCK = re.compile(r'group(\d+)_block(\d+)')
_MOMENTS = {'mean_ema': 'mean', 'var_ema': 'var'}
_STEM_CHANNELS = 64

# What the original has written into its code.
_SETTINGS = {
    'resnet.stem': 'imagenet', 'resnet.padding': 'same',
    'resnet.projection_shortcut': 'group', 'projector.depth': 2,
    'predictor.depth': 2, 'encoder_norm': 'batch', 'projector_norm': 'batch',
    'predictor_norm': 'batch', 'norm_epsilon': 1e-5,
    'batch_norm_momentum': 0.9, 'batch_statistics': 'per_view',
    'compute_dtype': 'float32', 'augment.mean': (0.485, 0.456, 0.406),
    'augment.std': (0.229, 0.224, 0.225), 'target': 'ema',
    'tau_schedule': 'cosine', 'loss_normalization': 'l2', 'beta': 0.0,
    'online_probe': True, 'optimizer': 'lars', 'momentum': 0.9,
    'trust_coefficient': 1e-3, 'clip_trust_ratio': False,
    'exclude_bias_and_norm': True,
    'predictor_learning_rate_multiplier': 1.0, 'init_from': '',
}


@dataclasses.dataclass(frozen=True)
class Imported:
  """What a checkpoint of the original is here.

  Attributes:
    config: as given to `read`, with the file's network and the original's
      method.
    num_classes: of the online classifier.
    state: on the host.
  """

  config: ml_collections.ConfigDict
  num_classes: int
  state: state_lib.TrainState


def read(path: str, config: ml_collections.ConfigDict) -> Imported:
  """Reads a checkpoint that the original's `Checkpointer` has written.

  Args:
    path: of a file from anyone, see `restricted_pickle`.
    config: for what the file does not say: data, schedules, batch size.

  Raises:
    ConfigError: if the file is refused, or holds something else, or a network
      that we have not; says what was found.
  """
  content = restricted_pickle.load(path)
  try:
    fields, step = _fields(content)
    params = {
        name: _parameters(fields[name], name)
        for name in ('online_params', 'target_params')}
    params['mu'] = _parameters(_momentum(fields['opt_state']), 'momentum')
    stats = {
        name: _statistics(fields[name], name)
        for name in ('online_state', 'target_state')}
    step = _num_updates(step, _counter(fields['online_state']))
    config = _with_network(config, params['online_params'])
    state = _state(config, params, stats, step)
  except _Unknown as error:
    raise config_lib.ConfigError(
        f'{path} is no pretraining checkpoint of the original that can be '
        f'imported: {error}') from None
  num_classes = params['online_params']['probe', 'bias'].shape[0]
  return Imported(config, num_classes, state)


class _Unknown(Exception):
  """Says what was found, and expected; `read` adds in which file."""


def _fields(content: Any) -> tuple[dict[str, Any], int]:
  """The parts of the original's state, and the step it was saved with."""
  if not isinstance(content, dict):
    raise _Unknown(
        f'it holds a {type(content).__name__}, expected a dictionary with '
        'experiment_state and step')
  state, step = content.get('experiment_state'), content.get('step')
  if not isinstance(state, restricted_pickle.Record):
    raise _Unknown(
        f'it holds {_names(content)}, expected experiment_state and step')
  missing = [name for name in _FIELDS if name not in state.fields]
  if missing:
    raise _Unknown(
        f'its state {state.name!r} holds {_names(state.fields)}, and not '
        f'{", ".join(missing)}')
  if isinstance(step, restricted_pickle.Array):
    step = _array(step, 'step')
    if step.size != 1 or step.dtype.kind not in 'iu':
      raise _Unknown('its step is no integer')
    step = int(step.reshape(()))
  if type(step) is not int or not 0 <= step < 2**31 - 1:
    raise _Unknown('its step is no integer, or no possible one')
  return state.fields, step


def _names(mapping: Mapping[Any, Any]) -> str:
  """Some keys of what a stranger has written."""
  names = [ascii(str(key)[:40]) for key in list(mapping)[:6]]
  return ', '.join(names) + (', ...' if len(mapping) > 6 else '') or 'nothing'


def _array(value: Any, name: str) -> np.ndarray:
  if not isinstance(value, restricted_pickle.Array) or value.value is None:
    raise _Unknown(f'{name} is a {type(value).__name__}, expected an array')
  return value.value


def _each(tree: Any, what: str) -> list[tuple[str, str, np.ndarray]]:
  """(module, key, array) of Haiku's dictionaries of dictionaries."""
  found = []
  if not isinstance(tree, dict):
    raise _Unknown(
        f'{what} is a {type(tree).__name__}, expected a dictionary by module')
  for module, arrays in tree.items():
    if not isinstance(arrays, dict):
      raise _Unknown(
          f'{what} of {ascii(str(module)[:80])} is a '
          f'{type(arrays).__name__}, expected a dictionary')
    found += [
        (str(module), str(key), _array(value, f'{module}/{key}'))
        for key, value in arrays.items()]
  return found


def _module_path(module: str) -> tuple[str, ...]:
  try:
    return deepmind.module_path(module)
  except KeyError:
    raise _Unknown(
        f'it has the module {ascii(module[:80])}, and the original with '
        'ResNet v1 has none of that name') from None


def _put(
    flat: _Flat, path: tuple[str, ...], array: np.ndarray, name: str) -> None:
  if array.dtype != np.float32:
    raise _Unknown(f'{name} is {array.dtype}, expected float32')
  if not np.isfinite(array).all():
    raise _Unknown(f'{name} is not finite')
  if path in flat:
    raise _Unknown(f'{name} is there under two names')
  flat[path] = array


def _parameters(tree: Any, what: str) -> _Flat:
  flat = {}
  for module, key, array in _each(tree, what):
    if key not in deepmind.PARAMETER_KEYS:
      raise _Unknown(
          f'it has the parameter {ascii(f"{module}/{key}"[:120])}, expected '
          f'one of {", ".join(deepmind.PARAMETER_KEYS)}')
    _module_path(module)
    if key in ('scale', 'offset'):  # [1, 1, 1, C] or [1, C]
      array = array.reshape(-1)
    _put(flat, deepmind.parameter_path(module, key), array,
         f'{what} {module}/{key}')
  return flat


def _momentum(opt_state: Any) -> Any:
  """The buffer of LARS, among the states of a chain."""
  states = opt_state if isinstance(opt_state, (list, tuple)) else ()
  for state in states:
    if isinstance(state, restricted_pickle.Record) and 'mu' in state.fields:
      return state.fields['mu']
  raise _Unknown(
      'its optimizer has no momentum `mu`, expected the state of the '
      "original's LARS")


def _statistics(tree: Any, what: str) -> _Flat:
  """The averages of batch normalisation, by our paths."""
  flat = {}
  for module, key, array in _each(tree, what):
    layer, _, moment = module.rpartition('/~/')
    if moment not in _MOMENTS:
      raise _Unknown(
          f'{what} holds {ascii(module[:80])}, expected averages of batch '
          'normalisation')
    path = (*_module_path(layer), _MOMENTS[moment])
    if key == 'average':
      _put(flat, path, array.reshape(-1), f'{what} {module}/{key}')
  return flat


def _counter(tree: Any) -> int:
  """How many batches every batch normalisation has seen."""
  counts = {
      int(array.reshape(())) if array.size == 1 else -1
      for _, key, array in _each(tree, 'online_state') if key == 'counter'}
  if len(counts) != 1 or min(counts) < 1:
    raise _Unknown(
        'its batch normalisations have counted '
        f'{sorted(counts)[:4] or "nothing"}, expected one positive number')
  return counts.pop()


def _num_updates(step: int, counter: int) -> int:
  """Of a checkpoint that was saved as `step`, see the docstring above."""
  return step if counter == 2 * step else step + 1


def _with_network(
    config: ml_collections.ConfigDict, params: _Flat
) -> ml_collections.ConfigDict:
  """`config` with the network that has such parameters."""
  config = config.copy_and_resolve_references()
  for name, value in _SETTINGS.items():
    config_lib.set_field(config, name, value)
  for path in (
      ('encoder', 'stem_conv', 'kernel'), ('projector', 'dense1', 'kernel'),
      ('projector', 'dense2', 'kernel'), ('predictor', 'dense1', 'kernel'),
      ('probe', 'kernel'), ('probe', 'bias')):
    if path not in params or not params[path].ndim:
      raise _Unknown(f'it has no {".".join(path)}, as we name it')
  blocks, is_bottleneck, channels = _groups(params)
  depths = (
      resnet.BOTTLENECK_DEPTHS if is_bottleneck else resnet.BASIC_DEPTHS)
  depth = next((d for d, known in depths.items() if known == blocks), None)
  if depth is None:
    kind = 'bottleneck' if is_bottleneck else 'basic'
    raise _Unknown(
        f'its encoder has groups of {blocks} {kind} blocks, expected one of '
        f'{", ".join(map(str, depths.values()))}')
  base = _outputs(params, 'encoder', 'stem_conv')
  if not base:
    raise _Unknown('its first convolution is empty')
  width = base / _STEM_CHANNELS
  config.encoder = f'resnet{depth}'
  config.resnet.width = width
  expansion = 4 if is_bottleneck else 1
  usual = tuple(base * expansion * 2**group for group in range(4))
  config.resnet.channels_per_group = () if channels == usual else tuple(
      round(number / width) for number in channels)
  config.projector.hidden_size = _outputs(params, 'projector', 'dense1')
  config.projector.output_size = _outputs(params, 'projector', 'dense2')
  config.predictor.hidden_size = _outputs(params, 'predictor', 'dense1')
  return config


def _outputs(params: _Flat, *module: str) -> int:
  return params[*module, 'kernel'].shape[-1]


def _groups(params: _Flat) -> tuple[tuple[int, ...], bool, tuple[int, ...]]:
  """Blocks in each group, whether they are bottlenecks, results' channels."""
  found = {}
  for path in params:
    if path[0] == 'encoder' and (match := _BLOCK.fullmatch(path[1])):
      found.setdefault(int(match[1]), set()).add(int(match[2]))
  if sorted(found) != [1, 2, 3, 4]:
    raise _Unknown(
        f'its encoder has the groups {sorted(found)[:8]}, expected 1 to 4')
  for group, blocks in found.items():
    if max(blocks) != len(blocks):
      raise _Unknown(f'blocks of group {group} of its encoder are missing')
  last = ('encoder', 'group1_block1', 'conv3', 'kernel')
  is_bottleneck = last in params
  channels = []
  for group in range(1, 5):
    path = ('encoder', f'group{group}_block1',
            'conv3' if is_bottleneck else 'conv2', 'kernel')
    if path not in params or not params[path].ndim:
      raise _Unknown(f'it has no {".".join(path)}, as we name it')
    channels.append(params[path].shape[-1])
  return (
      tuple(len(found[group]) for group in range(1, 5)), is_bottleneck,
      tuple(channels))


def _state(
    config: ml_collections.ConfigDict, params: dict[str, _Flat],
    stats: dict[str, _Flat], step: int,
) -> state_lib.TrainState:
  """Puts everything where a run of `config` would have it."""
  num_classes = params['online_params']['probe', 'bias'].shape[0]
  tx = optimizers.create_optimizer(config, lambda _: 0.0)
  try:
    config_rules.validate(config)
    network = network_lib.create_network(config, num_classes)
    like = jax.eval_shape(state_lib.make_create_train_state(
        network, tx, config))
  except (config_lib.ConfigError, TypeError, ValueError) as error:
    raise _Unknown(f'its shapes make no network ({error})') from None
  online = _fitted(
      params['online_params'], like.online_params, 'online parameters')
  momentum = _fitted(params['mu'], like.online_params, 'momentum')
  opt_state = optax.tree.set(
      like.opt_state, trace=momentum, count=np.asarray(step, np.int32))
  return state_lib.TrainState(
      step=np.asarray(step, np.int32), online_params=online,
      target_params=_fitted(
          _target_parts(params['target_params']), like.target_params,
          'target parameters'),
      online_batch_stats=_fitted(
          stats['online_state'], like.online_batch_stats,
          'online statistics'),
      target_batch_stats=_fitted(
          _target_parts(stats['target_state']), like.target_batch_stats,
          'target statistics'),
      opt_state=opt_state, objective_state={})


def _target_parts(flat: _Flat) -> _Flat:
  return {
      path: array for path, array in flat.items()
      if path[0] in network_lib.TARGET_PARTS}


def _fitted(flat: _Flat, like: Any, what: str) -> dict[str, Any]:
  """The tree of `flat`, which must have the shapes of `like`."""
  wanted = traverse_util.flatten_dict(like)
  for path in sorted(wanted.keys() | flat.keys()):
    found, expected = (
        side[path].shape if path in side else 'nothing'
        for side in (flat, wanted))
    if found != expected:
      raise _Unknown(
          f'its {what} have {".".join(path)} (as we name it) with the shape '
          f'{found}, expected {expected} by its other shapes')
  return traverse_util.unflatten_dict(flat)

"""What values a configuration's fields may have.

`validate(config)` is called before any data is opened or anything is
compiled. What it cannot know without the data (the length of the run, whether
there are labels) is checked by the loop, with the same exception.
"""

import math
from typing import Any

import ml_collections

from byol_jax import config as config_lib
from byol_jax.config import ConfigError

NORMS = (
    'batch', 'batch_local', 'group_ws', 'layer', 'instance', 'none',
    'affine_init')
PROTOCOLS = (
    'knn', 'linear', 'logistic', 'semi_supervised', 'finetune', 'segmentation',
    'depth')
ENCODERS = tuple(f'resnet{n}' for n in (10, 18, 34, 50, 101, 152, 200))

_CHOICES = {
    'encoder': ENCODERS,
    'resnet.stem': ('imagenet', 'cifar', 'stride2'),
    'resnet.padding': ('torch', 'same'),
    'resnet.projection_shortcut': ('shape', 'group'),
    'encoder_norm': NORMS,
    'projector_norm': NORMS,
    'predictor_norm': NORMS,
    'batch_statistics': ('per_view', 'joined'),
    'compute_dtype': ('float32', 'bfloat16'),
    'remat': ('none', 'norm', 'first_group', 'block'),
    'target': ('ema', 'stop_gradient', 'online'),
    'target_init': ('independent', 'copy'),
    'tau_schedule': ('cosine', 'constant'),
    'loss_normalization': ('l2', 'layer', 'batch', 'none'),
    'optimizer': ('lars', 'sgd', 'adamw'),
    'on_nonfinite': ('stop', 'rewind'),
    'final_protocols': PROTOCOLS,  # each of them
    'metric': ('top1', 'mean_per_class', 'map'),
}

# Lower and upper bounds, both allowed; None is no bound.
_RANGES = {
    'image_size': (1, None), 'test_image_size': (1, None),
    'max_bad_image_share': (0, 1),
    # Below what Pillow itself refuses.
    'max_image_pixels': (1, 2**27), 'cache_bytes': (0, None),
    'test_crop_ratio': (1e-3, 1), 'projector.depth': (0, None),
    'predictor.depth': (0, None), 'projector.hidden_size': (1, None),
    'projector.output_size': (1, None), 'predictor.hidden_size': (1, None),
    'resnet.width': (1 / 64, None), 'resnet.channels_per_group': (1, None),
    'batch_norm_momentum': (0, 1),
    'base_tau': (0, 1), 'beta': (0, None), 'temperature': (1e-6, None),
    'batch_size': (1, None), 'accumulation_steps': (1, None),
    'num_epochs': (0, None), 'warmup_epochs': (0, None),
    'weight_decay': (0, None), 'base_learning_rate': (0, None),
    'momentum': (0, 1), 'max_rewinds': (0, None),
    'log_every_steps': (1, None),
    'checkpoint_every_steps': (1, None), 'checkpoints_to_keep': (1, None),
    'evaluate_every_steps': (1, None), 'evaluate_batch_size': (1, None),
    'knn.k': (1, None), 'knn.temperature': (1e-6, None),
    'knn.max_train_examples': (1, None), 'linear.num_epochs': (1, None),
    'linear.batch_size': (1, None),
    'linear.momentum': (0, 1), 'norm_epsilon': (1e-12, None),
    'norm_groups': (1, None), 'weight_standardization_epsilon': (1e-12, None),
    'trust_coefficient': (0, None),
    'predictor_learning_rate_multiplier': (0, None), 'seed': (0, None),
    'augment.std': (1e-6, None), 'linear.base_learning_rates': (0, None),
    'logistic.num_values': (1, None), 'logistic.l2_range': (0, None),
    'logistic.max_iterations': (1, None), 'logistic.tolerance': (0, None),
    'semi_supervised.shares': (0, 1), 'semi_supervised.num_epochs': (1, None),
    'semi_supervised.learning_rates': (0, None),
    'semi_supervised.batch_size': (1, None),
    'semi_supervised.momentum': (0, 1), 'finetune.num_steps': (1, None),
    'finetune.batch_size': (1, None), 'finetune.momentum': (0, 1),
    'finetune.learning_rates': (1e-12, None),
    'finetune.weight_decays': (0, None),
    **{f'{section}.{name}': bounds
       for section in ('segmentation', 'depth') for name, bounds in {
           'num_steps': (1, None), 'batch_size': (1, None),
           'momentum': (0, 1), 'weight_decay': (0, None),
           'learning_rates': (1e-12, None), 'flip_prob': (0, 1),
           'head_channels': (1, None), 'evaluate_batch_size': (1, None),
           'held_out_share': (0, 0.9)}.items()},
    'segmentation.crop_size': (1, None),
    'segmentation.scale_range': (1e-2, 100),
    'segmentation.head_dilation': (1, None),
    'depth.scale': (1e-2, 100), 'depth.crop_height': (1, None),
    'depth.crop_width': (1, None), 'depth.grayscale_prob': (0, 1),
    'depth.brightness': (0, 1), 'depth.saturation_range': (0, None),
    'depth.hue': (0, 0.5),
}

# Of `config.data`, all followed by a colon and what it is.
_DATA_KINDS = (
    'tfds', 'folder', 'tfrecord', 'arrays', 'voc', 'cityscapes', 'pairs')

_TOTAL_STRIDE = {'imagenet': 32, 'cifar': 8, 'stride2': 16}


def validate(
    config: ml_collections.ConfigDict, *, num_devices: int = 1,
    custom_encoder: bool = False,
) -> None:
  """Checks every rule that needs neither data nor a compile.

  Args:
    config: what to check.
    num_devices: over all processes; the batch is spread over them.
    custom_encoder: whether the user's own encoder replaces `config.encoder`.

  Raises:
    ConfigError: at the first broken rule.
  """
  check_data(config.data)
  _validate_values(config, custom_encoder)
  _validate_sizes(config, num_devices, custom_encoder)
  if config.beta and config.loss_normalization != 'l2':
    raise ConfigError(
        f'config.beta is {config.beta} with config.loss_normalization='
        f'{config.loss_normalization}; negatives need l2')
  if not custom_encoder:
    _validate_channels(config)
  _validate_encoder_norm(config, custom_encoder)
  for part in ('projector', 'predictor'):
    if config[f'{part}_norm'] == 'group_ws' and config[part].depth > 1:
      # A group of one number, with no positions, is its own mean.
      _check_groups(
          config, f'{part}.hidden_size', config[part].hidden_size, smallest=2)


def check_data(data: str) -> None:
  """Raises ConfigError unless `data` is of the form of `config.data`."""
  kind, _, place = data.partition(':')
  if kind != 'fake' and not (kind in _DATA_KINDS and place):
    raise ConfigError(
        f'config.data is {data!r}; expected tfds:NAME, folder:PATH, '
        'tfrecord:PATTERN, arrays:PATH.npz, voc:PATH, cityscapes:PATH, '
        'pairs:PATH or fake')


def _validate_values(
    config: ml_collections.ConfigDict, custom_encoder: bool) -> None:
  """Each field by itself."""
  flat = config_lib.flatten(config.to_dict())
  for name, value in flat.items():
    _check_finite(name, value)
  for name, choices in _CHOICES.items():
    if not (custom_encoder and name == 'encoder'):
      _check_choice(name, flat[name], choices)
  for name, (low, high) in _RANGES.items():
    _check_range(name, flat[name], low, high)
  for view in ('view1', 'view2'):
    _validate_view(view, config.augment[view])
  for name in ('segmentation.scale_range', 'depth.saturation_range'):
    _check_order(name, flat[name])
  for name in ('augment.mean', 'augment.std'):
    if len(flat[name]) != 3:
      raise ConfigError(
          f'config.{name} is {flat[name]}, expected three numbers')


def _validate_sizes(
    config: ml_collections.ConfigDict, num_devices: int,
    custom_encoder: bool) -> None:
  """The batch and its parts, and the image."""
  parts = num_devices * config.accumulation_steps
  if config.batch_size % parts:
    raise ConfigError(
        f'config.batch_size is {config.batch_size}, expected a multiple of '
        f'{num_devices} devices x {config.accumulation_steps} accumulation '
        f'steps = {parts}')
  if starts_from_data(config) and (
      config.batch_size // config.accumulation_steps < 2):
    raise ConfigError(
        f'config.batch_size is {config.batch_size} in '
        f'{config.accumulation_steps} micro-batches, expected at least 2 '
        'images in each: affine_init takes its first values from their '
        'variance')
  smallest = 1 if custom_encoder else _TOTAL_STRIDE[config.resnet.stem]
  if config.image_size < smallest:
    raise ConfigError(
        f'config.image_size is {config.image_size}, expected at least '
        f'{smallest}, the total stride of a ResNet with '
        f'config.resnet.stem={config.resnet.stem}')


def norms_in_use(config: ml_collections.ConfigDict) -> set[str]:
  """Of `NORMS`, those of parts that have layers to normalise."""
  heads = [p for p in ('projector', 'predictor') if config[p].depth > 1]
  return {config[f'{part}_norm'] for part in ('encoder', *heads)}


def starts_from_data(config: ml_collections.ConfigDict) -> bool:
  """Whether initial parameters depend on a first batch of images."""
  return 'affine_init' in (
      config.encoder_norm, config.projector_norm, config.predictor_norm)


def _validate_channels(config: ml_collections.ConfigDict) -> None:
  """The four groups' channels, where they are given one by one."""
  given = config.resnet.channels_per_group
  if given and len(given) != 4:
    raise ConfigError(
        f'config.resnet.channels_per_group is {given}, expected four numbers, '
        'or none')
  bottleneck = int(config.encoder.removeprefix('resnet')) >= 50
  for channels in (round(config.resnet.width * number) for number in given):
    if channels < 4 or channels % 4:
      raise ConfigError(
          f'config.resnet.channels_per_group is {given} with '
          f'config.resnet.width={config.resnet.width:g}, expected multiples '
          'of 4')
    if config.encoder_norm == 'group_ws':
      _check_groups(
          config, 'resnet.channels_per_group',
          channels // 4 if bottleneck else channels, smallest=1)


def _validate_encoder_norm(
    config: ml_collections.ConfigDict, custom_encoder: bool) -> None:
  norm = config.encoder_norm
  if custom_encoder:
    if norm != 'batch':
      raise ConfigError(
          f'config.encoder_norm is {norm}, which a custom encoder does not '
          'see: build the layers into it and leave the field at batch')
    return
  if norm == 'group_ws':
    _check_groups(
        config, 'resnet.width', round(64 * config.resnet.width), smallest=1)
  stride = _TOTAL_STRIDE[config.resnet.stem]
  for field in ('image_size', 'test_image_size'):
    size = config[field]
    if norm == 'instance' and size is not None and size <= stride:
      raise ConfigError(
          f'config.{field} is {size} with config.encoder_norm=instance, '
          f'expected more than {stride}: the last feature map would have one '
          'position, whose variance is 0')
  if norm == 'none' and config.resnet.zero_gamma:
    raise ConfigError(
        'config.resnet.zero_gamma needs scales, which '
        'config.encoder_norm=none has not: set it to False')


def _check_groups(
    config: ml_collections.ConfigDict, field: str, channels: int, *,
    smallest: int) -> None:
  """Raises unless `channels` are groups of at least `smallest`."""
  groups = config.norm_groups
  if channels % groups or channels // groups < smallest:
    valid = [str(n) for n in range(1, channels // smallest + 1)
             if channels % n == 0]
    raise ConfigError(
        f'config.norm_groups is {groups} and config.{field} gives {channels} '
        f'channels, expected a divisor: {", ".join(valid)}')


def _each(value: Any) -> tuple[Any, ...]:
  return value if isinstance(value, tuple) else (value,)


def _check_finite(name: str, value: Any) -> None:
  for number in _each(value):
    if isinstance(number, float) and not math.isfinite(number):
      raise ConfigError(f'config.{name} is {value}, expected finite numbers')


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
  if not set(_each(value)) <= set(choices):
    raise ConfigError(
        f'config.{name} is {value!r}, expected one of {", ".join(choices)}')


def _check_range(name: str, value: Any, low: Any, high: Any) -> None:
  numbers = [n for n in _each(value) if n is not None]  # a placeholder's
  if any((low is not None and n < low) or (high is not None and n > high)
         for n in numbers):
    expected = f'at least {low}' if high is None else f'in [{low}, {high}]'
    raise ConfigError(f'config.{name} is {value}, expected {expected}')


def _check_order(name: str, value: Any) -> None:
  if len(value) != 2 or not 0 < value[0] <= value[1]:
    raise ConfigError(
        f'config.{name} is {value}, expected two positive numbers in order')


def _validate_view(view: str, settings: ml_collections.ConfigDict) -> None:
  """Probabilities in [0, 1], ranges in order, strengths not negative."""
  for field, value in settings.items():
    name = f'augment.{view}.{field}'
    if field.endswith('_prob'):
      _check_range(name, value, 0, 1)
    elif field.endswith('_range'):
      _check_order(name, value)
    else:
      _check_range(name, value, 0, None)
  _check_range(
      f'augment.{view}.crop_area_range', settings.crop_area_range, 0, 1)

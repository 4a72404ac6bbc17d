"""The base configuration, and every rule that its fields must obey.

`get_base_config()` holds every field there is, with the paper's defaults
(ResNet-50, ImageNet, 1000 epochs). A file in `configs/` overrides a few of
them; the command line overrides those (`--config.batch_size=512`).

`validate(config)` is called before any data is opened or anything is
compiled. What it cannot know without the data (the length of the run, whether
there are labels) is checked by the loop, with the same exception.
"""

from collections.abc import Mapping
import difflib
import json
import math
from typing import Any

import ml_collections
from ml_collections import config_dict


class ConfigError(ValueError):
  """A user's slip, worth one clear line and no stack trace.

  The message says what was found, what was expected and what to do.
  """


def get_view_config() -> ml_collections.ConfigDict:
  """The first view of the paper's Table 6 (`view1`; `view2` differs in two).

  Probabilities are in [0, 1]; images are float in [0, 1]; see
  `byol_jax/augmentation/operations.py` for what each operation does.
  """
  return ml_collections.ConfigDict(dict(
      crop_area_range=(0.08, 1.0),  # share of the image's area
      crop_aspect_ratio_range=(3 / 4, 4 / 3),
      flip_prob=0.5,
      jitter_prob=0.8,
      brightness=0.4,  # added: U(-brightness, brightness)
      contrast=0.4,  # factor: U(1 - contrast, 1 + contrast)
      saturation=0.2,  # factor: U(1 - saturation, 1 + saturation)
      hue=0.1,  # turns: U(-hue, hue)
      grayscale_prob=0.2,
      blur_prob=1.0,
      blur_sigma_range=(0.1, 2.0),  # pixels
      solarize_prob=0.0,
      solarize_threshold=0.5,
  ))


def get_base_config() -> ml_collections.ConfigDict:
  """Every field, with the values of the original's 1000-epoch preset."""
  config = ml_collections.ConfigDict()

  # For people: shown by reports and comparisons, read by nothing else.
  config.name = ''  # of what this run tries
  config.published = ''  # the figure others publish for it, and where

  # Data.
  # tfds:NAME[:VERSION] | folder:PATH | tfrecord:PATTERN | arrays:PATH.npz |
  # fake; see data/sources.py
  config.data = 'tfds:imagenet2012'
  config.data_dir = ''  # TFDS's directory; '' is $TFDS_DATA_DIR or its default
  config.train_split = 'train'
  config.test_split = 'validation'  # '' where there is none
  # What evaluations choose their settings on; '' is a held-out share of train.
  config.valid_split = ''
  config.image_size = 224  # pixels, of a view
  config.test_image_size = config_dict.placeholder(int)  # None: image_size
  config.test_crop_ratio = 0.875  # centre crop, share of the shorter side
  config.max_bad_image_share = 0.01  # of a folder's files; above, stop
  # Of an image: larger ones are not decoded, but count as bad (201 MB each at
  # three bytes a pixel; Pillow, which checks folders, holds four and copies).
  config.max_image_pixels = 2**26
  config.cache_bytes = 2**30  # decoded images that fit are kept in memory

  # Augmentation, each view with its own settings.
  config.augment = ml_collections.ConfigDict()
  config.augment.view1 = get_view_config()
  config.augment.view2 = get_view_config()
  config.augment.view2.blur_prob = 0.1
  config.augment.view2.solarize_prob = 0.2
  # Where colours, blur and solarization are made: True: in the step. The host
  # then crops, flips and sends bytes. Pixels differ by their rounding.
  config.augment.device = False
  # Subtracted and divided by, per channel, of images in [0, 1].
  config.augment.mean = (0.485, 0.456, 0.406)
  config.augment.std = (0.229, 0.224, 0.225)

  # Networks.
  config.encoder = 'resnet50'  # resnet{10,18,34,50,101,152,200}
  config.resnet = ml_collections.ConfigDict(dict(
      width=1.0,  # multiplies every number of channels
      # Of the four groups, before width; () is 64, 128, 256, 512 (and times
      # four where the blocks are bottlenecks).
      channels_per_group=(),
      # imagenet (7x7/2, max-pool) | cifar (3x3/1) | stride2 (3x3/2)
      stem='imagenet',
      padding='torch',  # torch (symmetric) | same (the original's)
      # shape: a projection where the shape changes (torchvision);
      # group: in the first block of every group (the original).
      projection_shortcut='shape',
      zero_gamma=False,  # start each residual branch at zero
  ))
  config.projector = ml_collections.ConfigDict(dict(
      depth=2, hidden_size=4096, output_size=256))  # depth 0: identity
  config.predictor = ml_collections.ConfigDict(dict(
      depth=2, hidden_size=4096))  # depth 0: no predictor
  # batch (over all devices) | batch_local (each device's share) | group_ws |
  # layer | instance | none | affine_init: see networks/normalization.py
  config.encoder_norm = 'batch'
  config.projector_norm = 'batch'
  config.predictor_norm = 'batch'
  config.norm_epsilon = 1e-5  # added to every variance
  config.norm_groups = 16  # group_ws: of channels
  # group_ws: the least variance that a kernel is divided by the root of.
  config.weight_standardization_epsilon = 1e-5
  config.batch_norm_momentum = 0.9  # weight of the old running statistics
  config.batch_statistics = 'per_view'  # per_view | joined
  config.compute_dtype = 'float32'  # float32 | bfloat16, of the encoder
  # What the encoder computes again for its gradient instead of keeping it:
  # none | norm (normalisation and ReLU) | first_group (all within the residual
  # blocks of the first group, whose maps are the largest) | block (of all
  # groups). See docs/performance.md for what each costs.
  config.remat = 'none'
  # Whether each of a process's devices keeps and updates a share of the large
  # kernels, their momenta and targets, and not all of them; see docs/pods.md.
  config.shard_state = False

  # The method.
  config.target = 'ema'  # ema | stop_gradient | online
  config.target_init = 'independent'  # independent | copy
  config.base_tau = 0.996  # weight of the old target
  config.tau_schedule = 'cosine'  # cosine (to 1) | constant
  config.loss_normalization = 'l2'  # l2 | layer | batch | none
  config.beta = 0.0  # 0: BYOL, 1: InfoNCE; Eq. 6 of the paper
  config.temperature = 0.1  # of the negatives, where beta > 0
  config.online_probe = True  # linear, on a stopped gradient; needs labels

  # Optimizer.
  config.batch_size = 4096  # images, over all devices and processes
  config.accumulation_steps = 1  # micro-batches for one update
  config.num_epochs = 1000
  config.total_steps = config_dict.placeholder(int)  # wins over num_epochs
  config.optimizer = 'lars'  # lars | sgd | adamw
  config.base_learning_rate = 0.2  # for a batch of 256
  config.warmup_epochs = 10.0
  config.warmup_steps = config_dict.placeholder(int)  # wins over epochs
  config.weight_decay = 1.5e-6
  # Biases and normalisation parameters skip weight decay and trust ratio.
  config.exclude_bias_and_norm = True
  config.momentum = 0.9  # lars, sgd
  config.trust_coefficient = 1e-3  # lars
  config.clip_trust_ratio = False  # lars: rate times ratio at most 1 (LARC)
  config.predictor_learning_rate_multiplier = 1.0

  # The run.
  config.seed = 0
  config.init_from = ''  # another run's workdir, for its weights
  # When a metric is no longer finite: stop, or rewind to the last checkpoint
  # and go on without that batch.
  config.on_nonfinite = 'stop'
  config.max_rewinds = 3  # of a run; then it stops
  config.log_every_steps = 50
  config.checkpoint_every_steps = 1000
  config.checkpoints_to_keep = 3
  config.evaluate_every_steps = 5000  # kNN and online probe on test_split
  config.evaluate_batch_size = 256  # images, over all devices
  config.knn = ml_collections.ConfigDict(dict(
      k=200, temperature=0.1,
      max_train_examples=50_000))  # of the periodic evaluation's bank

  # At the end, beside the same encoder at random initialisation; () is none.
  config.final_protocols = ('knn',)  # any of PROTOCOLS

  # The protocols' settings, there and in `python -m byol_jax.evaluate`. Each
  # chooses on valid_split or else on a held-out share of train, never on test.
  config.metric = 'top1'  # top1 | mean_per_class | map (11 points, VOC 2007)
  config.linear = ml_collections.ConfigDict(dict(  # the paper's C.1
      num_epochs=80, batch_size=1024, momentum=0.9,
      augment=True,  # random crop and flip, else features extracted once
      # For a batch of 256, all in one pass over the data.
      base_learning_rates=(0.4, 0.3, 0.2, 0.1, 0.05),
      held_out_share=0.01))  # the paper: 10 009 images
  config.logistic = ml_collections.ConfigDict(dict(  # D.2
      num_values=45, l2_range=(1e-6, 1e5), held_out_share=0.1,
      max_iterations=5000, tolerance=1e-3))
  config.semi_supervised = ml_collections.ConfigDict(dict(  # C.2
      shares=(0.01, 0.1),  # of the labels
      # Instead, for each share a file: indices, or names of images, a line
      # each; SimCLR's lists are such.
      subsets=(),
      num_epochs=(30, 50), learning_rates=(0.01, 0.02, 0.05, 0.1, 0.005),
      batch_size=1024, momentum=0.9, held_out_share=0.01))
  config.finetune = ml_collections.ConfigDict(dict(  # D.3
      num_steps=20_000, batch_size=256, momentum=0.9,
      learning_rates=_log_spaced(1e-4, 1e-1, 7),
      # Divided by the learning rate, and then L2 regularisation.
      weight_decays=(0.0, *_log_spaced(1e-6, 1e-3, 7)),
      held_out_share=0.1))
  config.segmentation = ml_collections.ConfigDict(dict(  # D.4
      num_steps=30_000, batch_size=16, momentum=0.9, weight_decay=1e-4,
      # Not scaled by the batch; a tenth from 70 % of the steps, and from 90 %.
      learning_rates=_log_spaced(1e-3, 1e-1, 5),
      freeze_encoder=(False,),  # (False, True): fine-tuned, and then frozen
      crop_size=513, scale_range=(0.5, 2.0), flip_prob=0.5,
      head_channels=256, head_dilation=6,
      evaluate_batch_size=16,  # whole images, over all devices
      held_out_share=0.2))  # the paper: 2119 images
  config.depth = ml_collections.ConfigDict(dict(  # D.6
      num_steps=7500, batch_size=256, momentum=0.9, weight_decay=5e-4,
      learning_rates=(0.16,),  # as those of segmentation
      freeze_encoder=(False,),
      scale=0.5, crop_height=228, crop_width=304,  # of the scaled image
      flip_prob=0.5, grayscale_prob=0.3,
      brightness=0.1255,  # added: U(-brightness, brightness)
      saturation_range=(0.5, 1.5),  # factor
      hue=0.2,  # turns: U(-hue, hue)
      head_channels=(512, 256, 128, 64),  # of each up-projection
      evaluate_batch_size=64, held_out_share=0.1))
  return config


def _log_spaced(low: float, high: float, count: int) -> tuple[float, ...]:
  """`count` values from `low` to `high`, to four digits."""
  ratio = (high / low) ** (1 / (count - 1))
  return tuple(float(f'{low * ratio**i:.4g}') for i in range(count))


def to_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The configuration as nested dictionaries, tuples as lists: JSON's types."""
  return json.loads(config.to_json())


def from_dict(fields: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """The inverse of `to_dict`; fields that `fields` lacks keep their default.

  Raises:
    ConfigError: if a field is unknown, or its value is of the wrong type.
  """
  config = get_base_config()
  for name, value in flatten(fields).items():
    set_field(config, name, value)
  return config


def flatten(fields: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'resnet': {'width': 1}} to {'resnet.width': 1}."""
  flat = {}
  for name, value in fields.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat


def set_field(
    config: ml_collections.ConfigDict, name: str, value: Any) -> None:
  """Sets `config.NAME`, where NAME may have dots.

  Raises:
    ConfigError: if there is no such field, or `value` is of another type.
  """
  known = flatten(config.to_dict())
  if name not in known:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean {close[0]}?' if close else (
        'byol_jax/config.py lists the fields')
    raise ConfigError(f'unknown config field {name}: {hint}')
  *parents, leaf = name.split('.')
  for parent in parents:
    config = config[parent]
  if isinstance(config[leaf], tuple) and isinstance(value, list):
    value = tuple(value)
  try:
    config[leaf] = value
  except TypeError:
    raise ConfigError(
        f'config.{name} is {value!r}, expected a value like '
        f'{known[name]!r}') from None


def differences(
    a: ml_collections.ConfigDict, b: ml_collections.ConfigDict
) -> list[str]:
  """Lines `field: value in a, value in b`, for the fields that differ."""
  flat_a, flat_b = flatten(to_dict(a)), flatten(to_dict(b))
  return [
      f'{name}: {flat_a.get(name)!r}, {flat_b.get(name)!r}'
      for name in sorted(flat_a | flat_b)
      if flat_a.get(name) != flat_b.get(name)]


# Fields that decide the shape of what a checkpoint holds.
NETWORK_FIELDS = (
    'encoder', 'resnet.', 'projector.', 'predictor.', 'encoder_norm',
    'projector_norm', 'predictor_norm', 'target', 'optimizer', 'online_probe',
    'predictor_learning_rate_multiplier', 'clip_trust_ratio')


def network_differences(
    a: ml_collections.ConfigDict, b: ml_collections.ConfigDict
) -> list[str]:
  """`differences` among the fields that decide what a checkpoint means."""
  fields = NETWORK_FIELDS + norm_fields(a) + norm_fields(b)
  return [
      line for line in differences(a, b)
      if line.split(':')[0] in fields
      or line.startswith(tuple(f for f in fields if f.endswith('.')))]


# Fields that leave the rest of a run as it would have been, or only add to it.
FREE_FIELDS = (
    'name', 'published', 'data_dir', 'test_split', 'valid_split',
    'test_image_size', 'test_crop_ratio', 'max_bad_image_share',
    'init_from', 'log_every_steps', 'checkpoint_every_steps',
    'checkpoints_to_keep', 'evaluate_every_steps', 'evaluate_batch_size',
    'on_nonfinite', 'max_rewinds', 'final_protocols', 'metric', 'knn.',
    'linear.', 'logistic.', 'semi_supervised.', 'finetune.', 'segmentation.',
    'depth.')


def is_free(field: str) -> bool:
  """Whether a run may go on with another value of a field; see there."""
  return field in FREE_FIELDS or field.startswith(
      tuple(name for name in FREE_FIELDS if name.endswith('.')))


def norms_in_use(config: ml_collections.ConfigDict) -> set[str]:
  """Of `NORMS`, those of parts that have layers to normalise."""
  heads = [p for p in ('projector', 'predictor') if config[p].depth > 1]
  return {config[f'{part}_norm'] for part in ('encoder', *heads)}


def norm_fields(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Fields that leave parameters' shapes alone, and change what they do."""
  norms = norms_in_use(config)
  fields = ('norm_epsilon',) if norms - {'none'} else ()
  if 'group_ws' in norms:
    fields += ('norm_groups', 'weight_standardization_epsilon')
  return fields


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
  flat = flatten(config.to_dict())
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
  parts = num_devices * config.accumulation_steps
  if config.batch_size % parts:
    raise ConfigError(
        f'config.batch_size is {config.batch_size}, expected a multiple of '
        f'{num_devices} devices x {config.accumulation_steps} accumulation '
        f'steps = {parts}')
  smallest = 1 if custom_encoder else _TOTAL_STRIDE[config.resnet.stem]
  if config.image_size < smallest:
    raise ConfigError(
        f'config.image_size is {config.image_size}, expected at least '
        f'{smallest}, the total stride of a ResNet with '
        f'config.resnet.stem={config.resnet.stem}')
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
  if starts_from_data(config) and (
      config.batch_size // config.accumulation_steps < 2):
    raise ConfigError(
        f'config.batch_size is {config.batch_size} in '
        f'{config.accumulation_steps} micro-batches, expected at least 2 '
        'images in each: affine_init takes its first values from their '
        'variance')


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


def test_image_size(config: ml_collections.ConfigDict) -> int:
  """Pixels of a side of the images that an encoder is measured on."""
  return config.test_image_size or config.image_size


def run_length(
    config: ml_collections.ConfigDict, num_examples: int
) -> tuple[int, int]:
  """Returns (total_steps, warmup_steps) of a run over `num_examples`.

  Epochs turn to steps here and nowhere else: `epochs * N // batch_size`, as
  in the original. `total_steps` and `warmup_steps` win where they are set.

  Raises:
    ConfigError: if there is no step, or the warm-up is longer than the run.
  """
  def steps(num_epochs: float) -> int:
    return int(num_epochs * num_examples // config.batch_size)

  total_steps = config.total_steps
  if total_steps is None:
    total_steps = steps(config.num_epochs)
  warmup_steps = config.warmup_steps
  if warmup_steps is None:
    warmup_steps = steps(config.warmup_epochs)
  if total_steps < 1:
    raise ConfigError(
        f'the run has {total_steps} steps: {config.num_epochs} epochs of '
        f'{num_examples} images in batches of {config.batch_size}; raise '
        'config.num_epochs or lower config.batch_size')
  if warmup_steps < 0:
    raise ConfigError(
        f'config.warmup_steps is {warmup_steps}, expected at least 0')
  if warmup_steps > total_steps:
    raise ConfigError(
        f'the warm-up of {warmup_steps} steps is longer than the run of '
        f'{total_steps}: lower config.warmup_epochs or set '
        'config.warmup_steps')
  return total_steps, warmup_steps

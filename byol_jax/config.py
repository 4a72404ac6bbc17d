"""The base configuration: every field there is, and what follows from them.

`get_base_config()` has the paper's defaults (ResNet-50, ImageNet, 1000
epochs). A file in `configs/` overrides a few of them; the command line
overrides those (`--config.batch_size=512`). `config_rules` says what values
fields may have, `config_changes` which may change between runs.
"""

from collections.abc import Mapping
import difflib
import json
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
  for add_fields in (
      _add_names, _add_data, _add_augmentation,
      _add_networks, _add_method, _add_optimizer,
      _add_run, _add_protocols):
    add_fields(config)
  return config


def _add_names(config: ml_collections.ConfigDict) -> None:
  """Shown by reports and comparisons, read by nothing else."""
  config.name = ''  # of what this run tries
  config.published = ''  # the figure others publish for it, and where


def _add_data(config: ml_collections.ConfigDict) -> None:
  """Where images come from, and their sizes."""
  # tfds:NAME[:VERSION] | folder:PATH | tfrecord:PATTERN | arrays:PATH.npz |
  # voc:PATH | cityscapes:PATH | pairs:PATH | fake; see data/sources.py
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


def _add_augmentation(config: ml_collections.ConfigDict) -> None:
  """Each view with its own settings."""
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


def _add_networks(config: ml_collections.ConfigDict) -> None:
  """Encoder, heads and their normalisation."""
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


def _add_method(config: ml_collections.ConfigDict) -> None:
  """Target, loss and probe."""
  config.target = 'ema'  # ema | stop_gradient | online
  config.target_init = 'independent'  # independent | copy
  config.base_tau = 0.996  # weight of the old target
  config.tau_schedule = 'cosine'  # cosine (to 1) | constant
  config.loss_normalization = 'l2'  # l2 | layer | batch | none
  config.beta = 0.0  # 0: BYOL, 1: InfoNCE; Eq. 6 of the paper
  config.temperature = 0.1  # of the negatives, where beta > 0
  config.online_probe = True  # linear, on a stopped gradient; needs labels


def _add_optimizer(config: ml_collections.ConfigDict) -> None:
  """Batch, length, learning rate and its schedule."""
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


def _add_run(config: ml_collections.ConfigDict) -> None:
  """Seed, saves, logs and periodic evaluation."""
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


def _add_protocols(config: ml_collections.ConfigDict) -> None:
  """What is measured at the end, and in `python -m byol_jax.evaluate`."""
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

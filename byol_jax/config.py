"""The base configuration, and every rule that its fields must obey.

`get_base_config()` holds every field there is, with the paper's defaults
(ResNet-50, ImageNet, 1000 epochs). A file in `configs/` overrides a few of
them; the command line overrides those (`--config.batch_size=512`).

`validate(config)` is called before any data is opened or anything is
compiled. What it cannot know without the data (the length of the run, whether
there are labels) is checked by the loop, with the same exception.
"""

from collections.abc import Mapping
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
  `byol_jax/data/augment.py` for what each operation does.
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

  # Data.
  # tfds:NAME[:VERSION] | folder:PATH | arrays:PATH.npz | fake
  config.data = 'tfds:imagenet2012'
  config.data_dir = ''  # TFDS's directory; '' is $TFDS_DATA_DIR or its default
  config.train_split = 'train'
  config.test_split = 'validation'  # '' where there is none
  config.image_size = 224  # pixels, of a view
  config.test_image_size = config_dict.placeholder(int)  # None: image_size
  config.test_crop_ratio = 0.875  # centre crop, share of the shorter side
  config.max_bad_image_share = 0.01  # of a folder's files; above, stop
  config.cache_bytes = 2**30  # decoded images that fit are kept in memory

  # Augmentation, each view with its own settings.
  config.augment = ml_collections.ConfigDict()
  config.augment.view1 = get_view_config()
  config.augment.view2 = get_view_config()
  config.augment.view2.blur_prob = 0.1
  config.augment.view2.solarize_prob = 0.2
  # Subtracted and divided by, per channel, of images in [0, 1].
  config.augment.mean = (0.485, 0.456, 0.406)
  config.augment.std = (0.229, 0.224, 0.225)

  # Networks.
  config.encoder = 'resnet50'  # resnet{10,18,34,50,101,152,200}
  config.resnet = ml_collections.ConfigDict(dict(
      width=1.0,  # multiplies every number of channels
      stem='imagenet',  # imagenet (7x7/2, max-pool) | cifar (3x3/1)
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
  config.batch_norm_momentum = 0.9
  config.batch_norm_epsilon = 1e-5
  config.batch_statistics = 'per_view'  # per_view | joined
  config.compute_dtype = 'float32'  # float32 | bfloat16, of the encoder

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
  config.momentum = 0.9  # lars, sgd
  config.trust_coefficient = 1e-3  # lars
  config.predictor_learning_rate_multiplier = 1.0

  # The run.
  config.seed = 0
  config.init_from = ''  # another run's workdir, for its weights
  config.log_every_steps = 50
  config.checkpoint_every_steps = 1000
  config.checkpoints_to_keep = 3
  config.evaluate_every_steps = 5000  # kNN and online probe on test_split
  config.evaluate_batch_size = 256  # images, over all devices
  config.knn = ml_collections.ConfigDict(dict(
      k=200, temperature=0.1,
      max_train_examples=50_000))  # of the periodic evaluation's bank

  # The final linear probe and `python -m byol_jax.evaluate`.
  config.linear = ml_collections.ConfigDict(dict(
      num_epochs=80, batch_size=1024, base_learning_rate=0.2, momentum=0.9,
      augment=True))  # random crop and flip, as in the paper's C.1
  return config

"""BYOL on CIFAR-10 in minutes on two CPU cores; what quickstart.sh runs.

    python -m byol_jax.pretrain --config=configs/quickstart.py \
        --workdir=runs/quickstart

A recipe for few cores and little time, not for the best encoder: a narrow
ResNet-10 that halves the resolution at once, views of 16 pixels, colours
jittered half as strongly as in the paper, SGD.

Cost: 3 minutes on 2 cores of a Zen 5, 8 on slower ones, probes included.
Expected on the 10 000 test images, measured by ./launch/quickstart.sh: 49.8 to
51.1 linear and 42.9 to 43.4 kNN (k 200, temperature .1), as seed 0 gave on
different machines, where the same encoder at random initialisation has 38.3 and
31.8.
"""

import ml_collections

from byol_jax import config as config_lib


def get_config() -> ml_collections.ConfigDict:
  config = config_lib.get_base_config()
  config.data = 'tfds:cifar10'
  config.test_split = 'test'
  config.test_crop_ratio = 1.0
  config.image_size = 16
  # Crops show things larger than whole pictures do: a picture at 24 pixels
  # shows them as large as a view at 16.
  config.test_image_size = 24
  for view in (config.augment.view1, config.augment.view2):
    view.crop_area_range = (0.2, 1.0)
    view.update(brightness=0.2, contrast=0.2, saturation=0.1, hue=0.05)
    view.blur_prob = 0.0
    view.solarize_prob = 0.0

  config.encoder = 'resnet10'
  config.resnet.stem = 'stride2'
  config.resnet.width = 0.5
  config.projector.update(hidden_size=512, output_size=128)
  config.predictor.hidden_size = 512
  config.base_tau = 0.99

  config.optimizer = 'sgd'
  config.batch_size = 128
  config.num_epochs = 10
  config.warmup_epochs = 1.0
  config.base_learning_rate = 0.2
  config.weight_decay = 5e-4

  config.log_every_steps = 50
  config.checkpoint_every_steps = 500
  config.evaluate_every_steps = 1000
  config.evaluate_batch_size = 500
  config.knn.max_train_examples = 10_000
  config.final_protocols = ('knn', 'linear')
  config.linear.augment = False
  config.linear.base_learning_rates = (0.2,)
  config.linear.num_epochs = 30
  return config

"""BYOL on CIFAR-10 in minutes on two CPU cores; what quickstart.sh runs.

    python -m byol_jax.pretrain --config=configs/quickstart.py \
        --workdir=runs/quickstart
"""

import ml_collections

from byol_jax import config as config_lib


def get_config() -> ml_collections.ConfigDict:
  config = config_lib.get_base_config()
  config.data = 'tfds:cifar10'
  config.test_split = 'test'
  config.test_crop_ratio = 1.0
  config.image_size = 32
  config.augment.mean = (0.4914, 0.4822, 0.4465)
  config.augment.std = (0.2470, 0.2435, 0.2616)
  config.augment.view1.blur_prob = 0.0
  config.augment.view2.blur_prob = 0.0

  config.encoder = 'resnet10'
  config.resnet.stem = 'cifar'
  config.resnet.width = 0.25
  config.projector.update(hidden_size=512, output_size=128)
  config.predictor.hidden_size = 512
  config.base_tau = 0.99
  config.target_init = 'copy'

  config.optimizer = 'sgd'
  config.batch_size = 256
  config.num_epochs = 4
  config.warmup_epochs = 0.5
  config.base_learning_rate = 0.2
  config.weight_decay = 5e-4

  config.log_every_steps = 20
  config.checkpoint_every_steps = 200
  config.evaluate_every_steps = 400
  config.evaluate_batch_size = 500
  config.knn.max_train_examples = 10_000
  config.final_protocols = ('knn', 'linear')
  config.linear.augment = False
  config.linear.num_epochs = 30
  return config

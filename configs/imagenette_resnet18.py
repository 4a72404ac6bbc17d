"""BYOL, ResNet-18 on Imagenette at 128 pixels: the original README's recipe.

    python -m byol_jax.pretrain --config=configs/imagenette_resnet18.py \
        --workdir=runs/imagenette_resnet18

Cost: about 4 hours on one V100 (published). Expected online probe top-1
(published, not measured here): 92.3, by the original's README, whose
ResNet-18 had the stride on the second convolution of a block.
"""

import ml_collections

from byol_jax import config as config_lib


def get_config() -> ml_collections.ConfigDict:
  config = config_lib.get_base_config()
  config.data = 'tfds:imagenette/160px-v2'
  config.image_size = 128
  config.encoder = 'resnet18'
  config.batch_size = 256
  config.num_epochs = 1000
  config.base_learning_rate = 2.0
  config.weight_decay = 1e-6
  config.evaluate_every_steps = 1000
  config.final_protocols = ('knn', 'linear')
  return config

"""BYOL, ResNet-50 on ImageNet: the presets of the original.

    python -m byol_jax.pretrain --config=configs/imagenet_resnet50.py:300 \
        --workdir=runs/imagenet_resnet50

The argument is the number of epochs: 40, 100, 300 or 1000 (the default). For
other lengths take the nearest and override `--config.num_epochs`.

Cost: 1000 epochs took the original about 8 hours on 512 TPU v3 cores.
Expected linear top-1 (published, not measured here): 1000 epochs 74.3, 300
epochs 72.5 (the paper); 40 epochs 62 (deepmind-research issue 76). Data:
`imagenet2012` prepared by TFDS, about 150 GB.
"""

import ml_collections

from byol_jax import config as config_lib

# Epochs: base learning rate, weight decay, base tau.
PRESETS = {
    40: (0.45, 1e-6, 0.97),
    100: (0.45, 1e-6, 0.99),
    300: (0.3, 1e-6, 0.99),
    1000: (0.2, 1.5e-6, 0.996),
}


def get_config(num_epochs: str = '1000') -> ml_collections.ConfigDict:
  if num_epochs not in map(str, PRESETS):
    raise ValueError(
        f'no preset for {num_epochs!r} epochs, expected one of '
        f'{", ".join(map(str, PRESETS))}')
  config = config_lib.get_base_config()
  config.num_epochs = int(num_epochs)
  (config.base_learning_rate, config.weight_decay,
   config.base_tau) = PRESETS[config.num_epochs]
  config.compute_dtype = 'bfloat16'
  config.final_protocols = ('knn', 'linear')
  return config

"""BYOL, ResNet-200 of double width on ImageNet, 1000 epochs.

    python -m byol_jax.pretrain --config=configs/imagenet_resnet200x2.py \
        --workdir=runs/imagenet_resnet200x2

Cost: about ten times a ResNet-50's arithmetic; plan for a pod slice.
Expected linear top-1 (published, not measured here): 79.6 (the paper).
"""

import ml_collections

from configs import imagenet_resnet50


def get_config() -> ml_collections.ConfigDict:
  config = imagenet_resnet50.get_config('1000')
  config.encoder = 'resnet200'
  config.resnet.width = 2.0
  return config

"""BYOL, ResNet-18 on CIFAR-10: two recipes that others publish figures for.

    python -m byol_jax.pretrain --config=configs/cifar10_resnet18.py:solo \
        --workdir=runs/cifar10_resnet18

| argument | recipe | expected (published, not measured here) |
|---|---|---|
| solo | solo-learn: LARS with clipped ratios, 1000 epochs, batch 256 | 92.58 online linear |
| lightly | lightly: SGD, constant tau, 200 epochs, batch 128 | 86.9 kNN (k 200, t .1) |

Cost: solo-learn's takes most of a day on one GPU; lightly states 1.4-1.7
thousand images per second on an A6000, about two hours for 200 epochs.
Unlike lightly, weight decay leaves biases and normalisation alone here.
"""  # noqa: E501

import ml_collections

from byol_jax import config as config_lib


def get_config(recipe: str = 'solo') -> ml_collections.ConfigDict:
  if recipe not in ('solo', 'lightly'):
    raise ValueError(f'no recipe {recipe!r}, expected solo or lightly')
  config = config_lib.get_base_config()
  config.data = 'tfds:cifar10'
  config.test_split = 'test'
  config.test_crop_ratio = 1.0
  config.image_size = 32
  config.encoder = 'resnet18'
  config.resnet.stem = 'cifar'
  config.augment.mean = (0.4914, 0.4822, 0.4465)
  config.augment.std = (0.2470, 0.2435, 0.2616)
  config.augment.view1.blur_prob = 0.0
  config.augment.view2.blur_prob = 0.0
  config.evaluate_every_steps = 2000
  config.final_protocols = ('knn', 'linear')
  if recipe == 'solo':
    config.num_epochs = 1000
    config.batch_size = 256
    config.base_learning_rate = 1.0
    config.weight_decay = 1e-5
    config.trust_coefficient = 0.02
    config.clip_trust_ratio = True
    config.base_tau = 0.99
  else:
    config.num_epochs = 200
    config.batch_size = 128
    config.optimizer = 'sgd'
    config.base_learning_rate = 0.12
    config.warmup_epochs = 0.0
    config.weight_decay = 5e-4
    config.base_tau = 0.99
    config.tau_schedule = 'constant'
    config.projector.hidden_size = 1024
    config.predictor.hidden_size = 1024
    config.augment.view2.solarize_prob = 0.0
  return config

"""BYOL, ResNet-50 on your own images: a folder, nested or flat, no labels.

    python -m byol_jax.pretrain --config=configs/folder.py:/path/to/images \
        --workdir=runs/my_images

Cost: a step is about 65 GFLOP an image; for a few thousand images on one GPU,
hours. There is no figure to expect without labels: watch in the report
`train/projection_std` (healthy: near 1), `train/embedding_std` (healthy: above
0.3; of both, 0 is collapse) and `diagnostics/embedding_rank` (healthy: tens),
and its nearest neighbours. A real batch of 256 wants a slower target than the
paper's 4096 has, hence tau (paper, appendix G).
"""

import ml_collections

from byol_jax import config as config_lib


def get_config(path: str = '') -> ml_collections.ConfigDict:
  if not path:
    raise ValueError(
        'expected the folder after a colon: --config=configs/folder.py:/path')
  config = config_lib.get_base_config()
  config.data = f'folder:{path}'
  config.test_split = ''
  config.batch_size = 256
  config.num_epochs = 300
  config.base_learning_rate = 0.4
  config.base_tau = 0.9995
  config.compute_dtype = 'bfloat16'
  config.evaluate_every_steps = 2000
  return config

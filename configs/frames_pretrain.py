"""BYOL, ResNet-50 on a domain's own frames, to segment them with few labels.

    python -m byol_jax.pretrain --config=configs/frames_pretrain.py:/frames \
        --workdir=runs/frames

for a folder of frames, nested or flat, no labels. Then, with label maps of a
few of them (see `frames_segmentation.py` for the layout and the baselines):

    python -m byol_jax.evaluate --checkpoint=runs/frames \
        --protocol=segmentation --data=pairs:/labelled --config.test_split=test

Frames are large and full of small things: views are crops of 512 pixels that
cover 0.3 to 1 of a frame, where object photographs have 0.08 to 1. Smaller
ones would often share nothing. Start from weights that know images already, if
you have any: `--config.init_from=WORKDIR`.

Cost: 5 times that of 224 pixels, about 340 GFLOP an image and step. A batch of
256 in 8 micro-batches is 4 images a device on eight. Expected: not measured on
real frames; `python -m byol_jax.dense_scenes` makes a small domain to try it
on.
"""

import ml_collections

from byol_jax import config as config_lib
from configs import frames_segmentation


def get_config(path: str = '') -> ml_collections.ConfigDict:
  if not path:
    raise ValueError(
        'expected the folder after a colon: '
        '--config=configs/frames_pretrain.py:/path')
  config = config_lib.get_base_config()
  config.data = f'folder:{path}'
  config.test_split = ''
  config.image_size = 512
  for view in (config.augment.view1, config.augment.view2):
    view.crop_area_range = (0.3, 1.0)
  config.batch_size = 256
  config.accumulation_steps = 8
  config.num_epochs = 300
  config.base_learning_rate = 0.4
  config.base_tau = 0.9995
  config.compute_dtype = 'bfloat16'
  config.evaluate_every_steps = 2000
  frames_segmentation.set_segmentation(config)
  return config

"""Segmenting a domain's frames with few labels: the baseline, and settings.

    python -m byol_jax.evaluate --checkpoint=random --protocol=segmentation \
        --config=configs/frames_segmentation.py:/labelled --output=runs/random

for a folder of

    /labelled/train/images/*.jpg   /labelled/train/labels/*.png
    /labelled/test/images/*.jpg    /labelled/test/labels/*.png
    /labelled/classes.txt

is what the same fine-tuning gives without pretraining. `frames_pretrain.py`
has the same settings, which its checkpoints keep, so that both rows compare.
Each is measured with the encoder fine-tuned, and frozen. Any other checkpoint
takes them by `--config.segmentation.num_steps=4000` and so on.

Cost: of each learning rate, and of the last fit, 4000 steps of 16 crops. A
fifth of the labelled frames chooses the learning rate.
Expected: no figure is known; it is yours to compare.
"""

import ml_collections

from byol_jax import config as config_lib


def set_segmentation(config: ml_collections.ConfigDict) -> None:
  """The paper's D.4, shortened: few labels are learned by heart in 30 000."""
  config.segmentation.num_steps = 4000
  config.segmentation.crop_size = 513
  config.segmentation.learning_rates = (0.003, 0.01, 0.03)
  config.segmentation.freeze_encoder = (False, True)


def get_config(path: str = '') -> ml_collections.ConfigDict:
  if not path:
    raise ValueError(
        'expected the folder after a colon: '
        '--config=configs/frames_segmentation.py:/path')
  config = config_lib.get_base_config()
  config.data = f'pairs:{path}'
  config.test_split = 'test'
  config.compute_dtype = 'bfloat16'
  set_segmentation(config)
  return config

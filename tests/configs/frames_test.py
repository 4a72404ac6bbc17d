"""The pair of configs for a domain's own frames."""

import pytest

from byol_jax import config_rules
from configs import frames_pretrain
from configs import frames_segmentation


def test_both_segment_alike():
  """So that a checkpoint's figures compare with the baseline's."""
  pretrain = frames_pretrain.get_config('/frames')
  baseline = frames_segmentation.get_config('/labelled')
  for config in (pretrain, baseline):
    config_rules.validate(config, num_devices=8)
  assert pretrain.segmentation.to_dict() == baseline.segmentation.to_dict()
  assert pretrain.encoder == baseline.encoder
  assert (pretrain.data, baseline.data) == ('folder:/frames',
                                            'pairs:/labelled')


def test_views_of_frames():
  config = frames_pretrain.get_config('/frames')
  assert config.image_size == 512
  for view in (config.augment.view1, config.augment.view2):
    assert tuple(view.crop_area_range) == (0.3, 1.0)


@pytest.mark.parametrize('module', [frames_pretrain, frames_segmentation])
def test_a_folder_is_asked_for(module):
  with pytest.raises(ValueError, match='expected the folder after a colon'):
    module.get_config()

"""What is refused before a backbone for Detectron2 is written."""

import pytest

from byol_jax import config as config_lib
from byol_jax.interchange import detectron2_file


def test_refusals_name_detectron2(create_encoder):
  for options in ({'padding': 'same'}, {'stem': 'cifar'}):
    with pytest.raises(
        config_lib.ConfigError,
        match='^format detectron2 cannot express this encoder: config'):
      detectron2_file.check(create_encoder(
          encoder='resnet18', width=1, **options))

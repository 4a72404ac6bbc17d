import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.data import preview_grid
from byol_jax.data import sources

import tensorflow as tf  # isort: skip


def test_preview_is_a_picture_of_three_rows(tmp_path):
  config = config_lib.get_base_config()
  config.data, config.image_size = 'fake:8', 16
  source = sources.create_source(config, 'train')
  picture = preview_grid.create_preview(source, config, num_images=3)
  assert picture.dtype == np.uint8 and picture.shape[2] == 3
  assert len(np.unique(picture)) > 50  # something is drawn
  assert config.batch_size == 4096  # the caller's config is left alone
  path = tmp_path / 'new' / 'views.png'
  preview_grid.write_png(picture, str(path))
  np.testing.assert_array_equal(
      tf.io.decode_png(path.read_bytes(), 3), picture)
  (tmp_path / 'file').touch()
  with pytest.raises(OSError, match='file'):
    preview_grid.write_png(picture, str(tmp_path / 'file' / 'views.png'))

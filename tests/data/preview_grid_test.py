import dataclasses

import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.data import arrays
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


def test_images_keep_their_shape_and_pixels():
  wide = np.random.default_rng(0).integers(
      256, size=(76, 152, 3), dtype=np.uint8)
  tiny = np.zeros((2, 1, 3), np.float32)
  tiny[1] = 1.0, 0.5, 0.0
  large = np.full((300, 300, 3), 0.5, np.float32)
  picture = preview_grid._draw(
      [[wide, tiny], [large, large]], ('first', 'second'), ['m' * 99, ''])
  assert picture.shape == (20 + 2 * 160, 20 + 2 * 160, 3)
  cell = picture[20:172, 20:172]
  np.testing.assert_array_equal(cell[38:-38], wide)
  assert (cell[:38] == 255).all() and (cell[-38:] == 255).all()
  cell = picture[20:172, 180:332]
  assert (cell[:76, 38:-38] == 0).all()
  assert (cell[76:, 38:-38] == (255, 128, 0)).all()
  assert (picture[180:332, 20:172] == 128).all()
  # A title stays above its own column, and rows have theirs.
  assert picture[:20, 20:172].min() < 50 and picture[:20, 172:].min() == 255
  assert picture[20:172, :20].min() < 50 and picture[180:332, :20].min() < 50


@pytest.mark.parametrize('shape', [(1, 5000), (5000, 1), (1, 1)])
def test_images_of_any_shape_are_seen(shape):
  shown = preview_grid._fit(np.zeros((*shape, 3), np.uint8))
  assert max(shown.size) == 152 and min(shown.size) >= 1
  assert not np.asarray(shown).any()


def test_values_that_are_no_colours():
  values = np.float32([[[1.2, -0.2, np.nan]]])
  np.testing.assert_array_equal(
      np.asarray(preview_grid._fit(values))[0, 0], [255, 0, 0])


def test_a_title_keeps_its_beginning():
  font = preview_grid._font()
  line = lambda text: np.asarray(preview_grid._line(text, font))
  long = line('n02123045 tabby cat, of which there is more')
  assert (long[:, 0] == 255).all() and (long[:, -1] == 255).all()
  np.testing.assert_array_equal(
      long[:, :60], line('n02123045 tabby cat, or so and so on')[:, :60])
  np.testing.assert_array_equal(line('two\n lines'), line('two lines'))


def test_titles_of_several_labels():
  source = arrays.create_fake_source('8', 'train', 8)
  source = dataclasses.replace(
      source, class_names=('a', 'b', 'c'), is_multi_label=True)
  batch = {'label': np.int32([[1, -1, 1], [0, 0, 0]])}
  assert preview_grid._label(batch, source, 0) == 'a, c'
  assert preview_grid._label(batch, source, 1) == ''


def test_titles_in_other_alphabets():
  """Each letter has a shape of its own, and is no box."""
  letters = {preview_grid._line(letter, preview_grid._font()).tobytes()
             for letter in 'aжλ\uffff'}
  assert len(letters) == 4

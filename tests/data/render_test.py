"""Crops, resized and finished, against TensorFlow's own operations."""

import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.data import crop
from byol_jax.data import render

import tensorflow as tf  # isort: skip

_NO_DRAWS = np.zeros((20, 0), np.float32)


def _bicubic(pixels: np.ndarray, size: int) -> np.ndarray:
  resized = tf.image.resize(pixels, [size, size], tf.image.ResizeMethod.BICUBIC)
  return np.clip(resized / 255.0, 0.0, 1.0)


def _cut(image, box):
  y, x, height, width = box
  return image[y:y + height, x:x + width]


def _images_and_boxes(shape):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (20, *shape, 3), np.uint8)
  draws = np.random.default_rng(0).random((19, 4), np.float32)
  boxes = crop.random_crop_boxes(
      draws, np.tile(np.int32(shape), [19, 1]), area_range=(0.08, 1.0),
      aspect_ratio_range=(3 / 4, 4 / 3))
  return images, np.concatenate([boxes, np.int32([[0, 0, *shape]])])


@pytest.mark.parametrize('shape, size', [
    ((32, 32), 32), ((45, 60), 31), ((9, 7), 64), ((300, 40), 24)])
@pytest.mark.parametrize('mirrored', [False, True])
def test_resizing_is_tensorflow_s_bicubic(shape, size, mirrored):
  images, boxes = _images_and_boxes(shape)
  found = render.rows(
      images, boxes, np.full(20, mirrored), _NO_DRAWS, size=size,
      finish=render.IMAGE)
  for image, box, resized in zip(images, boxes, found, strict=True):
    pixels = _cut(image, box)
    expected = _bicubic(pixels, size)
    if mirrored:
      expected = expected[:, ::-1]
    np.testing.assert_allclose(resized, expected, rtol=0, atol=2e-6)
    alone = render.one(
        image, render.make_cuts(box, image.shape[:2]), mirrored, _NO_DRAWS[0],
        size=size, finish=render.IMAGE)
    np.testing.assert_array_equal(alone, resized)


def test_a_cut_is_padded_where_the_image_ends():
  boxes = [[3, 5, 30, 20], [20, 40, 60, 60], [10, 0, 3, 90]]
  sizes = [[200, 300], [80, 100], [13, 90]]
  cuts = render.make_cuts(tf.constant(boxes), tf.constant(sizes))
  for k, (box, size) in enumerate(zip(boxes, sizes, strict=True)):
    start, part, padding, shape, in_square = (x.numpy()[k] for x in cuts)
    assert (start // [1, 3] + in_square[:2] == box[:2]).all()
    assert (in_square[2:] == box[2:]).all()
    assert (start + part <= np.multiply(size, [1, 3])).all()
    assert (part + padding.sum(axis=1) == shape[:2] * [1, 3]).all()
    side = shape[0]
    assert (padding[:, 1] > 0).tolist() == [side > size[0], side > size[1]]


def test_the_whole_image_at_its_size_stays_as_it_is():
  images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
  found = render.rows(
      images, np.int32([[0, 0, 32, 32]] * 2), np.zeros(2, bool), _NO_DRAWS[:2],
      size=32, finish=render.IMAGE)
  np.testing.assert_allclose(found, images / 255, rtol=0, atol=1e-7)


def test_pixels_are_the_nearest_bytes():
  images, boxes = _images_and_boxes((45, 60))
  arguments = (images, boxes, np.arange(20) % 2 == 0, _NO_DRAWS)
  exact = render.rows(*arguments, size=31, finish=render.IMAGE)
  pixels = render.rows(*arguments, size=31, finish=render.PIXELS)
  assert pixels.dtype == tf.uint8
  for row in range(len(pixels)):
    alone = render.one(
        images[row], render.make_cuts(boxes[row], images.shape[1:3]),
        *(x[row] for x in arguments[2:]), size=31, finish=render.PIXELS)
    np.testing.assert_array_equal(alone, pixels[row])
  np.testing.assert_allclose(
      np.swapaxes(pixels, 1, 3) / 255, exact, rtol=0,
      atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize('shape', [(1, 1), (1, 50), (2000, 3)])
def test_crops_of_any_shape(shape):
  pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  found = render.one(
      pixels, render.make_cuts(tf.constant([0, 0, *shape]), shape), False,
      _NO_DRAWS[0], size=24, finish=render.IMAGE)
  np.testing.assert_allclose(found, _bicubic(pixels, 24), rtol=0, atol=2e-6)


def test_one_pipeline_serves_crops_of_all_sizes():
  """Their shapes are known only when they come."""
  rng = np.random.default_rng(0)
  shapes = [(5, 9), (64, 64), (65, 3), (100, 97)]
  pixels = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
  dataset = tf.data.Dataset.from_generator(
      lambda: pixels, output_signature=tf.TensorSpec([None, None, 3], tf.uint8))

  def whole(image):
    size = tf.shape(image)[:2]
    return render.one(
        image, render.make_cuts(tf.concat([[0, 0], size], 0), size), False,
        _NO_DRAWS[0], size=24, finish=render.IMAGE)

  found = dataset.map(whole)
  for image, expected in zip(found, pixels, strict=True):
    np.testing.assert_allclose(
        image, _bicubic(expected, 24), rtol=0, atol=2e-6)


def test_views_with_the_same_settings_are_compiled_once():
  first, again = (
      config_lib.get_base_config().augment for _ in range(2))
  assert render.make_view(first.view1) is render.make_view(again.view1)
  assert render.make_view(first.view1) is not render.make_view(again.view2)

"""Boxes: their distribution, the original's formulas, their limits."""

import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.augmentation import draws as columns
from byol_jax.data import crop

import tensorflow as tf  # isort: skip

_PAPER = dict(area_range=(0.08, 1.0), aspect_ratio_range=(3 / 4, 4 / 3))


def _draws(count: int) -> np.ndarray:
  return np.random.default_rng(0).random((count, 4), np.float32)


def test_random_boxes_have_the_stated_area_and_aspect():
  sizes = np.tile(np.int32([300, 400]), [20_000, 1])
  # Small enough that no box is clipped.
  boxes = crop.random_crop_boxes(
      _draws(20_000), sizes, area_range=(0.08, 0.4),
      aspect_ratio_range=(3 / 4, 4 / 3)).numpy()
  y, x, height, width = boxes.T
  area = height * width / (300 * 400)
  assert (area.min(), area.max()) == pytest.approx((0.08, 0.4), abs=0.003)
  np.testing.assert_allclose(  # uniform
      np.quantile(area, [0.25, 0.5, 0.75]), [0.16, 0.24, 0.32], atol=0.005)
  ratio = np.log(width / height)
  assert np.abs(ratio).max() == pytest.approx(np.log(4 / 3), abs=0.02)
  assert abs(ratio.mean()) < 0.01
  assert abs(np.mean(y / (300 - height)) - 0.5) < 0.01
  assert abs(np.mean(x / (400 - width)) - 0.5) < 0.01


def test_each_view_has_its_own_settings():
  draws = np.random.default_rng(0).random((2, 9, columns.COUNT), np.float32)
  sizes = np.random.default_rng(1).integers(30, 90, (9, 2), np.int32)
  views = [config_lib.get_base_config().augment.view1 for _ in range(2)]
  views[0].update(crop_area_range=(0.1, 0.2), flip_prob=0.0)
  views[1].update(
      crop_area_range=(0.6, 0.9), crop_aspect_ratio_range=(1.0, 1.1),
      flip_prob=1.0)
  found = crop.view_boxes(draws, sizes, views)
  for view, of_view, boxes in zip(views, draws, found, strict=True):
    np.testing.assert_array_equal(boxes, crop.random_crop_boxes(
        of_view[:, columns.CROP], sizes, area_range=view.crop_area_range,
        aspect_ratio_range=view.crop_aspect_ratio_range))
  small, large = np.prod(found[..., 2:], axis=-1) / np.prod(sizes, axis=1)
  assert small.max() < 0.3 and large.min() > 0.5
  mirrored = crop.view_mirrored(draws, views)
  np.testing.assert_array_equal(mirrored, [[False] * 9, [True] * 9])


def test_random_boxes_stay_inside():
  sizes = np.random.default_rng(1).integers(1, 90, (20_000, 2), np.int32)
  boxes = crop.random_crop_boxes(_draws(20_000), sizes, **_PAPER).numpy()
  assert np.all(boxes[:, :2] >= 0) and np.all(boxes[:, 2:] >= 1)
  assert np.all(boxes[:, :2] + boxes[:, 2:] <= sizes)


def test_random_boxes_follow_the_original_s_formula():
  draws = _draws(50)
  sizes = np.tile(np.int32([33, 47]), [50, 1])
  boxes = crop.random_crop_boxes(draws, sizes, **_PAPER).numpy()
  for (area, ratio, y, x), box in zip(
      draws.astype(np.float64), boxes, strict=True):
    area = (0.08 + area * 0.92) * 33 * 47
    ratio = np.exp(np.log(3 / 4) + ratio * (np.log(4 / 3) - np.log(3 / 4)))
    height = min(round(np.sqrt(area / ratio)), 33)
    width = min(round(np.sqrt(area * ratio)), 47)
    np.testing.assert_array_equal(
        box, [int(y * (33 - height + 1)), int(x * (47 - width + 1)), height,
              width])


def test_boxes_of_one_pixel_images_are_the_image():
  sizes = np.ones((5, 2), np.int32)
  expected = np.tile([0, 0, 1, 1], [5, 1])
  np.testing.assert_array_equal(
      crop.random_crop_boxes(_draws(5), sizes, **_PAPER), expected)
  np.testing.assert_array_equal(crop.center_crop_boxes(sizes, 0.5), expected)


def test_center_boxes_are_the_original_s():
  boxes = crop.center_crop_boxes(tf.constant([[300, 401], [32, 32]]), 0.875)
  np.testing.assert_array_equal(
      boxes, [[(300 - 262 + 1) // 2, (401 - 262 + 1) // 2, 262, 262],
              [2, 2, 28, 28]])

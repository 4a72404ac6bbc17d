"""The operations against numbers recorded from the original, and NumPy.

`golden/augment_ops.npz` was recorded by running DeepMind's BYOL; an
independent recomputation in double precision agrees with it to 5e-7.
"""

import colorsys
import pathlib

import numpy as np
import pytest

from byol_jax.data import augment  # hides devices and log noise first

import tensorflow as tf  # isort: skip

_GOLDEN = np.load(
    pathlib.Path(__file__).parents[1] / 'golden' / 'augment_ops.npz')
_TOLERANCE = 1e-6

_OPS = {
    'brightness': augment.adjust_brightness,
    'contrast': augment.adjust_contrast,
    'saturation': augment.adjust_saturation,
    'hue': augment.adjust_hue,
    'blur': augment.gaussian_blur,
}
_CASES = [
    'brightness_0.3', 'brightness_-0.4', 'contrast_0.6', 'contrast_1.4',
    'saturation_0.8', 'saturation_1.2', 'hue_-0.1', 'hue_0.07', 'blur_0.1',
    'blur_0.5', 'blur_1.0', 'blur_2.0']


def _images(size: int) -> np.ndarray:
  return _GOLDEN[f'images{size}_u8'].astype(np.float32) / np.float32(255)


def _assert_golden(images, size: int, name: str):
  images = np.asarray(images)
  if size == 224:  # only some rows and columns were recorded
    kept = _GOLDEN['idx224']
    images = images[:, kept][:, :, kept]
  np.testing.assert_allclose(
      images, _GOLDEN[f's{size}/{name}'], rtol=0, atol=_TOLERANCE)


def _in_tf_data(fn, *tensors):
  dataset = tf.data.Dataset.from_tensors(tensors).map(fn)
  return next(dataset.as_numpy_iterator())


@pytest.mark.parametrize('size', [64, 224])
@pytest.mark.parametrize('name', _CASES)
def test_operation_is_the_original_s(name, size):
  images = tf.constant(_images(size))
  kind, _, value = name.partition('_')
  parameter = tf.fill([len(images)], np.float32(value))
  _assert_golden(_OPS[kind](images, parameter), size, name)


@pytest.mark.parametrize('name', _CASES)
def test_operation_is_the_same_inside_tf_data(name):
  images = tf.constant(_images(64))
  kind, _, value = name.partition('_')
  parameter = tf.fill([len(images)], np.float32(value))
  _assert_golden(_in_tf_data(_OPS[kind], images, parameter), 64, name)


@pytest.mark.parametrize('size', [64, 224])
def test_grayscale_and_solarize_are_the_original_s(size):
  images = tf.constant(_images(size))
  _assert_golden(augment.to_grayscale(images), size, 'grayscale')
  _assert_golden(augment.solarize(images, 0.5), size, 'solarize_0.5')
  _assert_golden(_in_tf_data(augment.to_grayscale, images), size, 'grayscale')
  _assert_golden(_in_tf_data(lambda x: augment.solarize(x, 0.5), images), size,
                 'solarize_0.5')


@pytest.mark.parametrize('run', [lambda f, *x: f(*x), _in_tf_data])
@pytest.mark.parametrize('size', [64, 224])
@pytest.mark.parametrize('case', range(3))
def test_color_jitter_is_the_original_s(case, size, run):
  images = tf.constant(_images(size))
  count = len(images)
  *values, gray = _GOLDEN['jitter_params'][case]
  order = np.tile(_GOLDEN['jitter_order'][case], [count, 1]).astype(np.int32)

  def transform(x):
    x = augment.color_jitter(x, tf.constant(order), {
        op: tf.fill([count], np.float32(value))
        for op, value in enumerate(values)})
    return augment.clip(augment.to_grayscale(x) if gray else x)

  _assert_golden(run(transform, images), size, f'jitter{case}')


def test_color_jitter_takes_each_image_s_own_order_and_parameters():
  images = np.repeat(_images(64)[:1], 3, axis=0)
  orders = _GOLDEN['jitter_order'].astype(np.int32)
  values = _GOLDEN['jitter_params'].astype(np.float32)
  parameters = {op: values[:, op] for op in range(4)}
  together = augment.color_jitter(tf.constant(images), orders, parameters)
  for case in range(3):
    alone = augment.color_jitter(
        tf.constant(images[:1]), orders[case:case + 1],
        {op: p[case:case + 1] for op, p in parameters.items()})
    np.testing.assert_array_equal(together[case], alone[0])


def _numpy_hsv(images, change):
  pixels = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel)))
            for pixel in images.reshape(-1, 3).astype(np.float64)]
  return np.array(pixels).reshape(images.shape)


def _numpy_blur(images, sigma):
  radius = int(images.shape[1] / 10 / 2)
  kernel = np.exp(-np.arange(-radius, radius + 1)**2 / (2 * sigma**2))
  kernel /= kernel.sum()
  for axis in (1, 2):
    images = np.apply_along_axis(np.convolve, axis, images, kernel, 'same')
  return images


_REFERENCES = {
    'brightness': lambda x, p: x + p,
    'contrast': lambda x, p: p * (x - x.mean((1, 2), keepdims=True))
    + x.mean((1, 2), keepdims=True),
    'saturation': lambda x, p: _numpy_hsv(
        x, lambda h, s, v: (h, min(s * p, 1.0), v)),
    'hue': lambda x, p: _numpy_hsv(x, lambda h, s, v: ((h + p) % 1, s, v)),
    'blur': _numpy_blur,
}


@pytest.mark.parametrize(
    'kind, value', [('brightness', 0.1), ('contrast', 0.3),
                    ('saturation', 3.0), ('saturation', 0.0), ('hue', 0.4),
                    ('hue', -0.5), ('blur', 0.7)])
def test_operation_on_hostile_pixels_is_numpy_s(kind, value):
  rng = np.random.default_rng(0)
  images = rng.random((2, 31, 21, 3), np.float32)
  images[0, :4] = [[[0, 0, 0]], [[1, 1, 1]], [[0.5, 0.5, 0.5]], [[1, 0, 0]]]
  images[0, 4, :3] = [[0.7, 0.7, 0.1], [0.1, 0.7, 0.7], [0.7, 0.1, 0.7]]
  found = _OPS[kind](tf.constant(images), tf.fill([2], np.float32(value)))
  expected = _REFERENCES[kind](images.astype(np.float64), value)
  np.testing.assert_allclose(found, expected, atol=2e-6)


def test_parameters_are_per_image():
  images = _images(64)[:3]
  values = np.array([0.3, -0.1, 0.2], np.float32)
  for fn in (augment.adjust_brightness, augment.adjust_hue):
    together = fn(tf.constant(images), values)
    for i in range(3):
      np.testing.assert_array_equal(
          together[i], fn(tf.constant(images[i:i + 1]), values[i:i + 1])[0])


def test_flip_mirrors_columns():
  images = _images(64)
  np.testing.assert_array_equal(
      augment.flip_left_right(images), images[:, :, ::-1])


def test_blur_keeps_small_images_and_darkens_borders():
  small = tf.ones([1, 19, 19, 3])
  np.testing.assert_array_equal(augment.gaussian_blur(small, [1.0]), small)
  blurred = augment.gaussian_blur(tf.ones([1, 64, 64, 3]), tf.constant([2.0]))
  np.testing.assert_allclose(blurred[0, 32, 32], 1.0, atol=1e-6)
  assert np.all(blurred[0, 0, 32] < 0.8)


@pytest.mark.parametrize('size', [15, 32])
def test_an_image_s_bits_do_not_depend_on_its_batch(size):
  rng = np.random.default_rng(0)
  images = rng.random((6, size, size, 3), np.float32)
  values = rng.random(6).astype(np.float32) + 0.1
  for fn in (*_OPS.values(), lambda x, _: augment.to_grayscale(x)):
    whole = fn(tf.constant(images), values)
    for part in (slice(0, 2), slice(2, 6), slice(1, 6)):
      np.testing.assert_array_equal(
          whole[part], fn(tf.constant(images[part]), values[part]))


def test_apply_where_leaves_the_others():
  images = _images(64)[:4]
  mask = np.array([False, True, True, False])
  found = augment.apply_where(
      mask, augment.adjust_brightness, tf.constant(images),
      tf.constant([1.0, 2.0, 3.0, 4.0]))
  expected = images + np.array([0, 2, 3, 0], np.float32).reshape(4, 1, 1, 1)
  np.testing.assert_array_equal(found, expected)

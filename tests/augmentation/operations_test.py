"""The operations against numbers recorded from the original, and NumPy.

`golden/augment_ops.npz` was recorded by running DeepMind's BYOL; an
independent recomputation in double precision agrees with it to 5e-7.
"""

import colorsys
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.augmentation import batched
from byol_jax.augmentation import operations
from byol_jax.data import compiled  # hides devices and log noise first

import tensorflow as tf  # isort: skip

_GOLDEN = np.load(
    pathlib.Path(__file__).parents[1] / 'golden' / 'augment_ops.npz')
_TOLERANCE = 1e-6

_OPS = {
    'brightness': operations.adjust_brightness,
    'contrast': operations.adjust_contrast,
    'saturation': operations.adjust_saturation,
    'hue': operations.adjust_hue,
    'blur': operations.gaussian_blur,
    'batchedblur': lambda image, sigma: jnp.stack(
        batched.gaussian_blur(tuple(image), sigma)),
}
_CASES = [
    'brightness_0.3', 'brightness_-0.4', 'contrast_0.6', 'contrast_1.4',
    'saturation_0.8', 'saturation_1.2', 'hue_-0.1', 'hue_0.07', 'blur_0.1',
    'blur_0.5', 'blur_1.0', 'blur_2.0', 'batchedblur_0.5', 'batchedblur_2.0']


def _images(size: int) -> np.ndarray:
  return _GOLDEN[f'images{size}_u8'].astype(np.float32) / np.float32(255)


def _assert_golden(images, size: int, name: str):
  images = np.asarray(images)
  if size == 224:  # only some rows and columns were recorded
    kept = _GOLDEN['idx224']
    images = images[:, kept][:, :, kept]
  name = name.removeprefix('batched')
  np.testing.assert_allclose(
      images, _GOLDEN[f's{size}/{name}'], rtol=0, atol=_TOLERANCE)


def _on_planes(fn):
  """`fn` of images [H, W, 3], whatever else it takes."""
  return lambda image, *args: jnp.transpose(
      fn(jnp.transpose(image, (2, 0, 1)), *args), (1, 2, 0))


def _on_device(fn, *arrays):
  """As in the step: mapped over a batch."""
  return jax.jit(jax.vmap(_on_planes(fn)))(*arrays)


def _one_by_one(fn, *arrays):
  """As jax.numpy has it, image for image."""
  return np.stack([_on_planes(fn)(*row) for row in zip(*arrays, strict=True)])


def _in_tf_data(fn, *arrays):
  dataset = tf.data.Dataset.from_tensors(arrays).map(
      compiled.each_for_host(_on_planes(fn)))
  return next(dataset.as_numpy_iterator())


_everywhere = pytest.mark.parametrize(
    'run', [_one_by_one, _on_device, _in_tf_data])


@_everywhere
@pytest.mark.parametrize('size', [64, 224])
@pytest.mark.parametrize('name', _CASES)
def test_operation_is_the_original_s(name, size, run):
  images = _images(size)
  kind, _, value = name.partition('_')
  parameter = np.full(len(images), np.float32(value))
  _assert_golden(run(_OPS[kind], images, parameter), size, name)


@_everywhere
@pytest.mark.parametrize('size', [64, 224])
def test_grayscale_and_solarize_are_the_original_s(size, run):
  images = _images(size)
  _assert_golden(run(operations.to_grayscale, images), size, 'grayscale')
  _assert_golden(
      run(lambda x: operations.solarize(x, 0.5), images), size, 'solarize_0.5')


@_everywhere
@pytest.mark.parametrize('size', [64, 224])
@pytest.mark.parametrize('case', range(3))
def test_color_jitter_is_the_original_s(case, size, run):
  images = _images(size)
  *values, gray = np.float32(_GOLDEN['jitter_params'][case])
  order = np.int32(_GOLDEN['jitter_order'][case])

  def transform(x, order):
    x = operations.color_jitter(x, order, dict(enumerate(values)))
    return operations.clip(operations.to_grayscale(x) if gray else x)

  def transform_planes(x, order):
    x = batched.color_jitter(tuple(x), order, dict(enumerate(values)))
    return jnp.stack(batched.clip(batched.to_grayscale(x) if gray else x))

  orders = np.tile(order, [len(images), 1])
  _assert_golden(run(transform, images, orders), size, f'jitter{case}')
  if run is _on_device:
    _assert_golden(run(transform_planes, images, orders), size, f'jitter{case}')


@pytest.mark.parametrize('names', [
    (0, 1, 2, 3), (1, 3), (0, 2)])
def test_jitter_of_a_batch_is_that_of_each_image(names):
  """In every order, of strong changes, also where some are left out."""
  orders = np.int32(list(itertools.permutations(range(4))))
  rng = np.random.default_rng(0)
  images = rng.random((len(orders), 16, 12, 3), np.float32)
  images[:, 0, :3] = [[0, 0, 0], [0.5, 0.5, 0.5], [1, 0, 0]]
  low, high = np.float32([[-0.6, 0.2, 0.0, -0.5], [0.6, 2.0, 3.0, 0.5]])
  values = low + (high - low) * rng.random((len(orders), 4), np.float32)

  def one_by_one(image, order, values):
    return operations.color_jitter(image, order, {i: values[i] for i in names})

  def at_once(image, order, values):
    return jnp.stack(batched.color_jitter(
        tuple(image), order, {i: values[i] for i in names}))

  expected = _on_device(one_by_one, images, orders, values)
  np.testing.assert_allclose(
      _on_device(at_once, images, orders, values), expected, rtol=0, atol=3e-6)
  assert np.median(np.abs(expected - images).max((1, 2, 3))) > 0.2


@pytest.mark.parametrize('run', [_on_device, _in_tf_data])
def test_color_jitter_takes_each_image_s_own_order_and_parameters(run):
  images = np.repeat(_images(64)[:1], 3, axis=0)
  orders = _GOLDEN['jitter_order'].astype(np.int32)
  values = _GOLDEN['jitter_params'].astype(np.float32)

  def jitter(image, order, values):
    return operations.color_jitter(image, order, dict(enumerate(values)))

  together = run(jitter, images, orders, values)
  for case in range(3):
    alone = run(jitter, *(x[case:case + 1] for x in (images, orders, values)))
    np.testing.assert_allclose(together[case], alone[0], rtol=0, atol=1e-6)
  assert np.abs(np.diff(together, axis=0)).max((1, 2, 3)).min() > 0.01


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
    'blur': _numpy_blur, 'batchedblur': _numpy_blur,
}


@_everywhere
@pytest.mark.parametrize(
    'kind, value', [('brightness', 0.1), ('contrast', 0.3),
                    ('saturation', 3.0), ('saturation', 0.0), ('hue', 0.4),
                    ('hue', -0.5), ('blur', 0.7), ('batchedblur', 0.7)])
def test_operation_on_hostile_pixels_is_numpy_s(kind, value, run):
  rng = np.random.default_rng(0)
  images = rng.random((2, 31, 21, 3), np.float32)
  images[0, :4] = [[[0, 0, 0]], [[1, 1, 1]], [[0.5, 0.5, 0.5]], [[1, 0, 0]]]
  images[0, 4, :3] = [[0.7, 0.7, 0.1], [0.1, 0.7, 0.7], [0.7, 0.1, 0.7]]
  found = run(_OPS[kind], images, np.full(2, np.float32(value)))
  expected = _REFERENCES[kind](images.astype(np.float64), value)
  np.testing.assert_allclose(found, expected, atol=2e-6)


def test_blur_keeps_small_images_and_darkens_borders():
  small = jnp.ones([3, 19, 19])
  np.testing.assert_array_equal(operations.gaussian_blur(small, 1.0), small)
  blurred = operations.gaussian_blur(jnp.ones([3, 64, 64]), 2.0)
  np.testing.assert_allclose(blurred[:, 32, 32], 1.0, atol=1e-6)
  assert np.all(blurred[:, 0, 32] < 0.8)


@pytest.mark.parametrize('size', [15, 32])
@pytest.mark.parametrize('name', _OPS)
def test_an_image_s_bits_do_not_depend_on_its_batch(name, size):
  rng = np.random.default_rng(0)
  images = rng.random((6, size, size, 3), np.float32)
  values = rng.random(6).astype(np.float32) + np.float32(0.1)
  whole = _in_tf_data(_OPS[name], images, values)
  for part in (slice(0, 2), slice(2, 6), slice(1, 6)):
    np.testing.assert_array_equal(
        whole[part], _in_tf_data(_OPS[name], images[part], values[part]))

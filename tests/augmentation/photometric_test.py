"""Views made in the step are those that the host makes."""

import jax
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.augmentation import photometric
from byol_jax.data import arrays
from byol_jax.data import compiled
from byol_jax.data import pipeline


@pytest.fixture(scope='module')
def config():
  config = config_lib.get_base_config()
  config.image_size = 32
  config.batch_size = 16
  config.augment.device = True
  config.augment.view2.update(blur_prob=0.5)
  return config


@pytest.fixture(scope='module')
def batches(config):
  """The same examples: cropped for the device, and whole views of the host."""
  source = arrays.create_fake_source('64', 'train', 32)
  return [
      next(pipeline.create_train_dataset(
          source, config, total_steps=1, on_device=on_device
      ).as_numpy_iterator()) for on_device in (True, False)]


@pytest.fixture(scope='module')
def made(config, batches):
  return jax.device_get(jax.jit(photometric.make_views_fn(config))(batches[0]))


def test_the_host_sends_bytes(batches, made):
  cropped, whole = batches
  assert set(cropped) == {'crops', 'draws', 'index', 'label'}
  for crops in cropped['crops']:
    assert crops.dtype == np.uint8 and crops.shape == (16, 3, 32, 32)
  assert set(made) == set(whole) == {'views', 'index', 'label'}
  np.testing.assert_array_equal(cropped['index'], whole['index'])


def test_what_the_host_sends_depends_on_the_position_alone(config):
  """Resumed, or shared by processes."""
  source = arrays.create_fake_source('64', 'train', 32)

  def batches(**options):
    return list(pipeline.create_train_dataset(
        source, config, total_steps=3, on_device=True, **options
    ).as_numpy_iterator())

  whole = batches()
  jax.tree.map(
      np.testing.assert_array_equal, batches(start_step=2), whole[2:])
  parts = [batches(process_index=i, process_count=2) for i in range(2)]
  joined = [jax.tree.map(lambda *x: np.concatenate(x), *both)
            for both in zip(*parts, strict=True)]
  jax.tree.map(np.testing.assert_array_equal, joined, whole)


@pytest.mark.parametrize('view', [0, 1])
def test_of_equal_pixels_both_make_equal_views(config, batches, made, view):
  settings = config.augment[f'view{view + 1}']
  on_host = compiled.each_for_host(
      lambda image, draws: photometric.photometric(image, draws, settings))
  planes = np.swapaxes(batches[0]['crops'][view], 2, 3) / np.float32(255)
  np.testing.assert_allclose(
      made['views'][view], on_host(planes, batches[0]['draws'][view]),
      rtol=0, atol=2e-6)


@pytest.mark.parametrize('view', [0, 1])
def test_they_differ_from_the_host_s_by_rounding(batches, made, view):
  """Where nothing is inverted: at the threshold that is no small matter."""
  error = np.abs(made['views'][view] - batches[1]['views'][view])
  straight = error.max((1, 2, 3)) < 0.1
  assert straight.mean() > 0.5
  assert error[straight].max() < 0.03
  assert error.mean() < 2 / 255


def test_where_the_host_makes_views_the_step_leaves_them(batches):
  host = config_lib.get_base_config()
  assert photometric.make_views_fn(host)(batches[1]) is batches[1]

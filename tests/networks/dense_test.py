"""The encoder before pooling, and the heads that predict every pixel."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.networks import dense
from byol_jax.networks import network as network_lib
from byol_jax.networks import normalization
from byol_jax.networks import resnet
from byol_jax.networks import segmentation
from byol_jax.networks import up_projection

NORM = functools.partial(normalization.BatchNorm, momentum=0.9, epsilon=1e-5)


def _init(module, x):
  """Output and variables; compiled, for one by one the ops take long."""
  return jax.jit(module.init_with_output)(jax.random.key(1), x)


@pytest.fixture
def encoder(tiny_config):
  """Makes the encoder, and its variables as pretraining has them."""
  make = functools.partial(network_lib.create_encoder, tiny_config)
  images = jax.random.uniform(jax.random.key(0), (2, 17, 33, 3))
  embedding, variables = _init(make(), images)
  return make, variables, images, embedding


def test_map_is_what_pooling_averages(encoder):
  make, variables, images, embedding = encoder
  module = make(pool=False)
  assert module.stride == 8
  features = jax.jit(module.apply)(variables, images)
  assert features.shape == (2, 3, 5, 32)
  np.testing.assert_allclose(
      jnp.mean(features, axis=(1, 2)), embedding, rtol=1e-5)


def _block(**kwargs):
  return resnet.Block(
      16, zero_gamma=False, norm=NORM, conv=functools.partial(
          resnet._conv, make_conv=nn.Conv, padding='torch',
          dtype=jnp.float32), **kwargs)


def test_dilated_bottleneck_is_the_plain_one_on_every_other_position():
  """Even positions see even positions only, at half the distance."""
  x = jax.random.normal(jax.random.key(0), (1, 9, 11, 16))
  make = functools.partial(
      _block, stride=1, bottleneck=True, project=True)
  variables = make().init(jax.random.key(1), x, train=False)
  dilated = make(dilation=2).apply(variables, x, train=False)
  plain = make().apply(variables, x[:, ::2, ::2], train=False)
  np.testing.assert_allclose(dilated[:, ::2, ::2], plain, atol=1e-5)


def test_last_group_is_dilated(encoder):
  """And no other; with the parameters of pretraining."""
  make, variables, images, _ = encoder
  module = make(dilate_last=True, pool=False)
  assert module.stride == 4
  features, state = jax.jit(functools.partial(
      module.apply, mutable=['intermediates'],
      capture_intermediates=lambda m, _: isinstance(m, resnet.Block),
  ))(variables, images)
  assert features.shape == (2, 5, 9, 32)
  (x,) = state['intermediates']['group3_block1']['__call__']
  last = {k: v['group4_block1'] for k, v in variables.items()}
  plain = _block(stride=1, bottleneck=False, project=True).clone(channels=32)
  np.testing.assert_allclose(
      plain.apply(last, x[:, ::2, ::2], train=False), features[:, ::2, ::2],
      atol=1e-5)


@pytest.mark.parametrize('padding', ['torch', 'same'])
def test_positions_are_centred_on_multiples_of_the_stride(
    tiny_config, padding):
  """A mirrored picture of n * stride + 1 pixels gives the mirrored map."""
  tiny_config.resnet.update(padding=padding, stem='stride2')
  module = network_lib.create_encoder(
      tiny_config, dilate_last=True, pool=False)
  assert module.stride == 8
  image = jax.random.uniform(jax.random.key(0), (1, 25, 33, 3))
  _, variables = _init(module, image)
  # Kernels that are their own mirror image.
  variables = jax.tree.map(
      lambda w: (w + w[:, ::-1]) / 2 if w.ndim == 4 else w, variables)
  apply = jax.jit(module.apply)
  features = apply(variables, image)
  assert features.shape[1:3] == (4, 5)
  np.testing.assert_allclose(
      apply(variables, image[:, :, ::-1]), features[:, :, ::-1],
      atol=1e-5)


def test_enlarging_goes_through_the_values():
  x = jnp.asarray([[1.0, 3.0], [5.0, 11.0]]).reshape(1, 2, 2, 1)
  found = dense.enlarge(x, (5, 7), 4.0)[0, :, :, 0]
  np.testing.assert_allclose(found[0], [1, 1.5, 2, 2.5, 3, 3, 3])
  np.testing.assert_allclose(found[2, :5], [3, 4, 5, 6, 7])
  every_other = dense.enlarge(x, (1, 1), 0.5)
  np.testing.assert_allclose(every_other[0, 0, 0], [1.0])


def test_fcn_head():
  head = segmentation.FCNHead(
      num_classes=5, norm=functools.partial(NORM), channels=8)
  x = jax.random.normal(jax.random.key(0), (1, 14, 15, 4))
  logits, variables = _init(head, x)
  assert logits.shape == (1, 14, 15, 5)
  assert set(variables['params']) == {
      'conv1', 'norm1', 'conv2', 'norm2', 'classifier'}
  # Of a 3x3 kernel with dilation 6, twice: 12 pixels away and no further.
  reach = jax.jit(jax.grad(
      lambda x: head.apply(variables, x)[0, 0, 0].sum()))(x)
  seen = np.abs(np.asarray(reach[0])).sum(axis=-1) > 0
  assert set(np.argwhere(seen).flatten()) == {0, 6, 12}


def test_depth_head_shapes():
  head = up_projection.DepthHead(norm=NORM, channels=(8, 4))
  x = jax.random.normal(jax.random.key(0), (2, 3, 5, 16))
  found, variables = _init(head, x)
  assert found.shape == (2, 12, 20, 1)
  shapes = jax.tree.map(jnp.shape, variables['params'])
  assert shapes['up1']['conv_shortcut']['kernel'] == (5, 5, 16, 8)
  assert shapes['up1']['conv1']['kernel'] == (5, 5, 16, 8)
  assert shapes['up1']['conv2']['kernel'] == (3, 3, 8, 8)
  assert shapes['up2']['conv2']['kernel'] == (3, 3, 4, 4)
  assert shapes['regressor']['kernel'] == (3, 3, 4, 1)


def test_unpooling():
  x = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)
  np.testing.assert_array_equal(
      up_projection.unpool(x)[0, :, :, 0],
      [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]])


def test_every_pixel_has_a_prediction(encoder):
  make, _, images, _ = encoder
  backbone = make(dilate_last=True, pool=False)
  module = dense.DenseTransfer(
      encoder=backbone, stride=backbone.stride, mean=(0.5, 0.5, 0.5),
      std=(0.25, 0.25, 0.25),
      head=segmentation.FCNHead(num_classes=3, norm=NORM, channels=4))
  logits, variables = _init(module, images)
  assert logits.shape == (2, 17, 33, 3)
  assert set(variables['params']) == {'encoder', 'head'}
  _, stats = jax.jit(functools.partial(
      module.apply, train=True, mutable=['batch_stats']))(variables, images)
  moved = jax.tree.map(
      lambda a, b: bool(jnp.any(a != b)), stats['batch_stats'],
      variables['batch_stats'])
  assert all(jax.tree.leaves(moved))

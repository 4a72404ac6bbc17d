"""The lowering of a convolution changes nothing but its speed."""

import functools
import re

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.networks import convolution

# Height, channels in and out, kernel, stride: what ResNets meet.
SHAPES = [
    (16, 3, 4, 7, 2), (8, 3, 4, 7, 2), (8, 3, 4, 3, 2), (8, 4, 4, 3, 1),
    (8, 4, 6, 1, 1), (8, 4, 6, 1, 2), (7, 4, 6, 3, 2), (4, 4, 4, 3, 2),
    (2, 4, 4, 3, 1), (1, 4, 4, 3, 1),
    # Enough channels for products tap by tap; an odd map for those.
    (8, 16, 4, 3, 2), (7, 16, 4, 3, 2)]


def _args(height, inputs, outputs, kernel):
  keys = jax.random.split(jax.random.key(0))
  return (
      jax.random.normal(keys[0], (2, height, height, inputs)),
      jax.random.normal(keys[1], (kernel, kernel, inputs, outputs)))


def _with_gradients(conv, args):
  """The result, and both gradients of a sum that weighs its places apart."""
  def scalar(lhs, rhs):
    out = conv(lhs, rhs)
    weights = np.cos(np.arange(out.size)).reshape(out.shape)
    return (out * weights.astype(np.float32)).sum(), out

  (_, out), grads = jax.jit(jax.value_and_grad(
      scalar, argnums=(0, 1), has_aux=True))(*args)
  return out, *grads


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('padding', ['SAME', 'torch'])
def test_equals_lax(shape, padding):
  height, inputs, outputs, kernel, stride = shape
  if padding == 'torch':
    padding = [(kernel // 2, kernel // 2)] * 2
  options = dict(
      window_strides=(stride, stride), padding=padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  args = _args(height, inputs, outputs, kernel)
  ours, theirs = (
      _with_gradients(functools.partial(conv, **options), args)
      for conv in (convolution.conv_general_dilated, lax.conv_general_dilated))
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('strides', 'padding'), [
    ((1, 1), [(0, 2), (3, 1)]), ((2, 1), [(0, 2), (3, 1)]),
    # More than the kernel sees: gradients leave places out.
    ((1, 1), [(4, 3), (5, 0)])])
def test_rows_and_columns_may_differ(strides, padding):
  keys = jax.random.split(jax.random.key(0))
  args = (jax.random.normal(keys[0], (2, 9, 12, 3)),
          jax.random.normal(keys[1], (3, 5, 3, 4)))
  options = dict(
      window_strides=strides, padding=padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  for a, b in zip(*(
      _with_gradients(functools.partial(conv, **options), args)
      for conv in (convolution.conv_general_dilated, lax.conv_general_dilated)
  ), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('shape', [(8, 4, 4, 3, 1), (16, 3, 4, 7, 2)])
def test_gradients_in_a_loop_are_in_order(shape):
  """Where they are not, XLA is many times slower: see `primitives`."""
  height, inputs, outputs, kernel, stride = shape
  images, rhs = _args(height, inputs, outputs, kernel)
  conv = functools.partial(
      convolution.conv_general_dilated, window_strides=(stride, stride),
      padding='SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  def gradients(rhs, micro_batches):
    # Of stride 1 a gradient of the images as well, as within a network.
    argnums = (0, 1) if stride == 1 else 1
    grad = jax.grad(lambda lhs, rhs: (conv(lhs, rhs)**3).sum(), argnums)
    return jax.lax.map(lambda images: grad(images, rhs), micro_batches)

  text = jax.jit(gradients).lower(
      rhs, np.stack([images] * 3)).compile().as_text()
  assert 'while(' in text
  orders = re.findall(r'dim_labels=([\w>-]+)', text)
  assert len(orders) >= (3 if stride == 1 else 2)
  assert set(orders) == {'b01f_01io->b01f'}


def test_a_kernels_gradient_computes_no_picture_again():
  """In the order of what it transposes, which is far slower than to keep it."""
  images, rhs = _args(8, 4, 4, 3)
  conv = functools.partial(
      convolution.conv_general_dilated, window_strides=(1, 1), padding='SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  def loss(rhs, images):
    return (conv(jax.nn.relu(conv(images, rhs)), rhs)**3).sum()

  text = jax.jit(jax.grad(loss)).lower(rhs, images).compile().as_text()
  computations = [
      part for part in text.split('\n}\n') if 'dimensions={3,1,2,0}' in part]
  assert computations
  assert not any('maximum(' in part for part in computations)


def test_small_pictures_become_matrix_products():
  """Or `test_equals_lax` would compare a thing with itself."""
  def primitives(height, kernel, stride):
    conv = functools.partial(
        convolution.conv_general_dilated, window_strides=(stride, stride),
        padding='SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return str(jax.make_jaxpr(conv)(*_args(height, 4, 4, kernel)))

  assert 'rows_times_matrix' in primitives(2, 3, 1)
  assert 'rows_times_matrix' in primitives(8, 1, 1)
  assert 'convolution_in_order' in primitives(8, 3, 1)


def test_groups_and_dilation_are_handed_on():
  lhs, rhs = _args(4, 4, 4, 1)
  options = dict(
      window_strides=(1, 1), padding='SAME', feature_group_count=2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  np.testing.assert_array_equal(
      convolution.conv_general_dilated(lhs, rhs[:, :, :2], **options),
      lax.conv_general_dilated(lhs, rhs[:, :, :2], **options))


def test_for_any_platform_there_are_convolutions_alone():
  lhs, rhs = _args(2, 4, 4, 3)

  def primitives(conv):
    return {e.primitive.name for e in jax.make_jaxpr(conv)(lhs, rhs).eqns}

  conv = functools.partial(
      convolution.conv_general_dilated, window_strides=(1, 1), padding='SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  assert 'rows_times_matrix' in primitives(lambda a, b: conv(a, b))
  with convolution.for_any_platform():
    assert primitives(lambda a, b: conv(a, b)) == {'conv_general_dilated'}
  assert 'rows_times_matrix' in primitives(lambda a, b: conv(a, b))


@pytest.mark.parametrize('shape', SHAPES)
def test_mapped_over_views_equals_lax(shape):
  """The step maps over views, within what it takes the gradient of."""
  height, inputs, outputs, kernel, stride = shape
  rhs = _args(height, inputs, outputs, kernel)[1]
  views = jax.random.normal(
      jax.random.key(2), (2, 3, height, height, inputs))

  def mapped(conv):
    one = functools.partial(
        conv, window_strides=(stride, stride), padding='SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return _with_gradients(
        lambda views, rhs: jax.vmap(one, (0, None))(views, rhs), (views, rhs))

  for a, b in zip(
      *map(mapped, (convolution.conv_general_dilated,
                    lax.conv_general_dilated)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('axes', [(None, 3), (2, 1), (0, 0), (1, None)])
def test_whatever_is_mapped_equals_lax(axes):
  args = tuple(
      x if axis is None else np.stack([x, 2 * x], axis)
      for x, axis in zip(_args(8, 4, 6, 3), axes, strict=True))

  def mapped(conv):
    one = functools.partial(
        conv, window_strides=(1, 1), padding='SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return _with_gradients(jax.vmap(one, axes), args)

  for a, b in zip(
      *map(mapped, (convolution.conv_general_dilated,
                    lax.conv_general_dilated)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('shape', [(8, 4, 4, 3, 1), (16, 3, 4, 7, 2)])
def test_a_wider_result_has_gradients(shape):
  """As of an `nn.Conv` that is given a `preferred_element_type`."""
  height, inputs, outputs, kernel, stride = shape
  args = [x.astype(jnp.bfloat16) for x in _args(
      height, inputs, outputs, kernel)]
  options = dict(
      window_strides=(stride, stride), padding='SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      preferred_element_type=jnp.float32)
  ours, theirs = (
      _with_gradients(functools.partial(conv, **options), args)
      for conv in (convolution.conv_general_dilated, lax.conv_general_dilated))
  assert [x.dtype for x in ours] == [jnp.float32, jnp.bfloat16, jnp.bfloat16]
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(
        a.astype(np.float32), b.astype(np.float32), rtol=1e-2, atol=1e-4)


def test_bad_shapes_and_precision_are_those_of_lax():
  images, rhs = _args(8, 4, 4, 3)
  options = dict(
      window_strides=(1, 1), padding='SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  with pytest.raises(ValueError, match='feature'):
    jax.eval_shape(functools.partial(
        convolution.conv_general_dilated, **options), images[..., :3], rhs)

  def backward(precision):
    """The gradient, though it is taken when the context has ended."""
    with jax.default_matmul_precision('float32'):
      _, pull_back = jax.vjp(
          functools.partial(convolution.conv_general_dilated,
                            precision=precision, **options), images, rhs)
    return jax.jit(pull_back).lower(images).as_text()

  for precision in (None, ['highest', 'highest']):
    assert backward(precision).count('HIGHEST') == 4  # two convolutions


@pytest.mark.parametrize('shape', [
    (8, 16, 4, 3, 2), (2, 4, 4, 3, 1), (8, 4, 4, 3, 1), (16, 3, 4, 7, 2)])
def test_second_and_forward_derivatives_equal_lax(shape):
  height, inputs, outputs, kernel, stride = shape
  args = _args(height, inputs, outputs, kernel)

  def derivatives(conv):
    def scalar(lhs, rhs):
      out = conv(
          lhs, rhs, window_strides=(stride, stride), padding='SAME',
          dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
      return (out ** 3).mean()
    return jax.jvp(jax.grad(scalar, argnums=(0, 1)), args, args)[1]

  for a, b in zip(
      *map(derivatives, (convolution.conv_general_dilated,
                         lax.conv_general_dilated)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_mapped_products_do_not_transpose_activations():
  """What `lax.dot` would do; see `_product`."""
  views, rhs = np.ones((2, 8, 4, 4, 64), np.float32), np.ones(
      (1, 1, 64, 32), np.float32)

  def loss(rhs, views):
    out = jax.vmap(lambda images: convolution.conv_general_dilated(
        images, rhs, (1, 1), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC')))(views)
    return (out ** 2).sum()

  text = jax.jit(jax.grad(loss)).lower(rhs, views).as_text()
  transposed = [line for line in text.splitlines() if 'transpose' in line]
  assert not any('x8x4x4' in line or '256x' in line for line in transposed)

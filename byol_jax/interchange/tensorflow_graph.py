"""A function of JAX as TensorFlow's own operations, image by image alike.

`jax2tf` wraps a whole program into one operation that only XLA can run. A
converter that reads TensorFlow's operations, such as tf2onnx, needs them one by
one. So a function is traced with the number of images open, and each of its
primitives replayed by the operation of TensorFlow that means the same; what
depends on no image is computed by JAX on the way and becomes a constant.

Only what our encoders consist of is known. Anything else is refused by name.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from byol_jax import config as config_lib
from byol_jax.quiet_tensorflow import tf

_ELEMENTWISE = {
    'add': tf.add, 'sub': tf.subtract, 'mul': tf.multiply, 'div': tf.divide,
    'max': tf.maximum, 'min': tf.minimum, 'neg': tf.negative,
    'rsqrt': tf.math.rsqrt, 'sqrt': tf.sqrt, 'square': tf.square}
# Functions within functions, and the name of what they hold.
_CALLS = {
    'jit': 'jaxpr', 'pjit': 'jaxpr', 'closed_call': 'call_jaxpr',
    'custom_jvp_call': 'call_jaxpr', 'custom_vjp_call': 'call_jaxpr'}


def convert(
    fun: Callable[[jax.Array], jax.Array], shape: Sequence[int]
) -> Callable[[tf.Tensor], tf.Tensor]:
  """Replays `fun` in TensorFlow.

  Args:
    fun: maps f32[B, *shape] to an array, each image by itself.
    shape: of one image.

  Returns:
    A function of f32[B, *shape] that is made of TensorFlow's operations.

  Raises:
    ConfigError: when it is called, if a primitive is not known.
  """
  batch = export.symbolic_shape('batch')
  closed = jax.make_jaxpr(fun)(
      jax.ShapeDtypeStruct((*batch, *shape), jnp.float32))

  def replay(images: tf.Tensor) -> tf.Tensor:
    (out,) = _replay(closed.jaxpr, closed.consts, [images], tf.shape(images)[0])
    return out

  return replay


def _replay(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any],
    batch: tf.Tensor,
) -> list[Any]:
  """Values are tensors, or arrays where no image is involved."""
  values = dict(zip(jaxpr.constvars, consts, strict=True))
  values |= zip(jaxpr.invars, arguments, strict=True)

  def read(atom: Any) -> Any:
    return atom.val if hasattr(atom, 'val') else values[atom]

  for equation in jaxpr.eqns:
    outputs = _apply(equation, [read(x) for x in equation.invars], batch)
    values |= zip(equation.outvars, outputs, strict=True)
  return [read(x) for x in jaxpr.outvars]


def _apply(equation: Any, inputs: list[Any], batch: tf.Tensor) -> list[Any]:
  """What an equation makes of tensors or arrays."""
  name, params = equation.primitive.name, equation.params
  if name in _CALLS:
    inner = params[_CALLS[name]]
    consts = getattr(inner, 'consts', ())
    return _replay(getattr(inner, 'jaxpr', inner), consts, inputs, batch)
  if name == 'broadcast_in_dim':
    return [_insert_ones(inputs[0], equation)]
  if not any(tf.is_tensor(x) for x in inputs):
    made = equation.primitive.bind(*inputs, **params)
    return list(made) if equation.primitive.multiple_results else [made]
  if name in _ELEMENTWISE:
    return [_ELEMENTWISE[name](*map(_operand, inputs))]
  if name == 'integer_pow':
    return [tf.pow(inputs[0], float(params['y']))]
  if name in ('copy', 'copy_p', 'stop_gradient'):
    return inputs
  if name == 'convert_element_type':
    return [tf.cast(inputs[0], params['new_dtype'].name)]
  if name not in _RULES:
    raise config_lib.ConfigError(
        f'format onnx knows no {name}, which this encoder computes; formats '
        'flax, stablehlo and savedmodel can express it')
  inputs = [
      _broadcast(_operand(x), atom.aval.shape, batch)
      for x, atom in zip(inputs, equation.invars, strict=True)]
  return [_RULES[name](*inputs, **params)]


def _operand(x: Any) -> Any:
  return x if tf.is_tensor(x) else tf.constant(np.asarray(x))


def _insert_ones(x: Any, equation: Any) -> Any:
  """Axes of one in place of those to repeat: arithmetic repeats them itself."""
  shape = [1] * len(equation.params['shape'])
  kept = equation.invars[0].aval.shape
  for axis, size in zip(
      equation.params['broadcast_dimensions'], kept, strict=True):
    shape[axis] = size if isinstance(size, int) else -1
  if not tf.is_tensor(x):
    # It may still have ones where it stands for more.
    own = np.shape(x)
    for axis, size in zip(
        equation.params['broadcast_dimensions'], own, strict=True):
      shape[axis] = size
    return np.reshape(np.asarray(x), shape)
  for axis, size in zip(
      equation.params['broadcast_dimensions'], x.shape, strict=True):
    shape[axis] = -1 if size is None else size
  return tf.reshape(x, shape)


def _broadcast(x: tf.Tensor, shape: Sequence[Any], batch: tf.Tensor) -> Any:
  """Repeats what `_insert_ones` left for later."""
  wanted = [size if isinstance(size, int) else None for size in shape]
  if x.shape.as_list() == wanted:
    return x
  return tf.broadcast_to(
      x, tf.stack([batch if size is None else size for size in wanted]))


def _conv(
    images: tf.Tensor, kernel: tf.Tensor, *, window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]], lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int], dimension_numbers: Any,
    feature_group_count: int, batch_group_count: int, **_: Any,
) -> tf.Tensor:
  """Of images NHWC with kernels HWIO."""
  specs = (dimension_numbers.lhs_spec, dimension_numbers.rhs_spec,
           dimension_numbers.out_spec)
  if (specs != ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
      or set(lhs_dilation) != {1}
      or feature_group_count * batch_group_count != 1):
    raise config_lib.ConfigError(
        'format onnx knows plain convolutions of [B, H, W, C] only; formats '
        'flax, stablehlo and savedmodel can express this encoder')
  return tf.nn.conv2d(
      images, kernel, window_strides, [(0, 0), *padding, (0, 0)],
      dilations=rhs_dilation)


def _max_pool(
    images: tf.Tensor, *, window_dimensions: Sequence[int],
    window_strides: Sequence[int], padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int], window_dilation: Sequence[int],
) -> tf.Tensor:
  """Of images NHWC, over height and width."""
  if (window_dimensions[0], window_dimensions[-1]) != (1, 1) or {
      *base_dilation, *window_dilation} != {1}:
    raise config_lib.ConfigError(
        'format onnx knows pooling over height and width only; formats flax, '
        'stablehlo and savedmodel can express this encoder')
  return tf.nn.max_pool2d(
      images, window_dimensions[1:-1], window_strides[1:-1],
      [tuple(pads) for pads in padding])


def _reduce_sum(x: tf.Tensor, *, axes: Sequence[int], **_: Any) -> tf.Tensor:
  # tf2onnx 1.17 mistakes the axes of a map of one pixel behind a convolution.
  if all(x.shape[axis] == 1 for axis in axes):
    return tf.squeeze(x, list(axes))
  return tf.reduce_sum(x, axes)


def _reshape(x: tf.Tensor, *, new_sizes: Sequence[Any], **_: Any) -> tf.Tensor:
  return tf.reshape(x, [
      size if isinstance(size, int) else -1 for size in new_sizes])


_RULES = {
    'conv_general_dilated': _conv, 'reduce_window_max': _max_pool,
    'reduce_sum': _reduce_sum, 'reshape': _reshape}

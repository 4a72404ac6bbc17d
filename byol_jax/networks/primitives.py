"""A product and a convolution whose gradients XLA for CPUs is fast at.

To lax they are what `lax.dot` and `lax.conv_general_dilated` are; they differ
in what they are transposed to, which decides which of XLA's kernels run.
"""

import functools
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
from jax.experimental import xla_metadata
from jax.extend import core
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir
import jax.numpy as jnp

NHWC_HWIO = lax.ConvDimensionNumbers(
    lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2))


class Window(NamedTuple):
  """Which places of a picture a kernel sees: a pair of each, rows first."""

  kernel_size: tuple[int, int]
  strides: tuple[int, int]
  padding: tuple[tuple[int, int], ...]
  out_size: tuple[int, int]


def multiply(
    images: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
  """[..., C] times [..., O], whose other axes make C: [..., O]."""
  return _product.bind(
      images, kernel.reshape(-1, kernel.shape[-1]), **options)


def _dot(rows: jax.Array, matrix: jax.Array, **options: Any) -> jax.Array:
  out = lax.dot(rows.reshape(-1, rows.shape[-1]), matrix, **options)
  return out.reshape(*rows.shape[:-1], matrix.shape[1])


def _describe_product(
    rows: Any, matrix: Any, *, preferred_element_type: Any,
    **_: Any) -> jax.core.ShapedArray:
  dtype = preferred_element_type or jnp.promote_types(rows.dtype, matrix.dtype)
  return jax.core.ShapedArray((*rows.shape[:-1], matrix.shape[1]), dtype)


def _transpose_rows(
    out: jax.Array, rows: Any, matrix: jax.Array, **options: Any) -> jax.Array:
  return _product.bind(out, matrix.T, **options).astype(rows.aval.dtype)


def _transpose_matrix(
    out: jax.Array, rows: jax.Array, matrix: Any, **options: Any) -> jax.Array:
  contracted = (((0,), (0,)), ((), ()))
  return lax.dot_general(
      rows.reshape(-1, rows.shape[-1]), out.reshape(-1, out.shape[-1]),
      contracted, **options).astype(matrix.aval.dtype)


def _map_product(args: Any, axes: Any, **options: Any) -> Any:
  """Mapped rows are more rows; a matrix for each is an ordinary dot."""
  rows, matrix = args
  if axes[1] is None:
    return _product.bind(jnp.moveaxis(rows, axes[0], 0), matrix, **options), 0
  return jax.vmap(functools.partial(_dot, **options), axes)(rows, matrix), 0


# [..., K] times [K, O]. What `lax.dot` becomes under `jax.vmap` contracts two
# axes for the matrix's gradient, and XLA then transposes activations in memory:
# up to 3.5 times the time.
_product = core.Primitive('rows_times_matrix')
_product.def_impl(_dot)
_product.def_abstract_eval(_describe_product)
ad.defbilinear(_product, _transpose_rows, _transpose_matrix)
batching.primitive_batchers[_product] = _map_product
mlir.register_lowering(_product, mlir.lower_fun(_dot, multiple_results=False))


def convolve(
    images: jax.Array, kernel: jax.Array, window: Window, **options: Any
) -> jax.Array:
  """[N, H, W, C] with [KH, KW, C, O], by XLA: [N, H', W', O]."""
  return _convolution.bind(images, kernel, window=window, **options)


def _convolve_by_xla(
    images: jax.Array, kernel: jax.Array, *, window: Window, **options: Any
) -> jax.Array:
  return lax.conv_general_dilated(
      images, kernel, window.strides, window.padding,
      dimension_numbers=NHWC_HWIO, **options)


def _describe_convolution(
    images: Any, kernel: Any, **options: Any) -> jax.core.ShapedArray:
  out = jax.eval_shape(
      functools.partial(_convolve_by_xla, **options), images, kernel)
  return jax.core.ShapedArray(out.shape, out.dtype)


def _transpose_images(
    out: jax.Array, images: Any, kernel: jax.Array, *, window: Window,
    **options: Any) -> jax.Array:
  """Seen from each place of a picture, the kernel is turned by 180 degrees."""
  if window.strides != (1, 1):
    # A dilated convolution, slow in a loop. No residual block has one, and the
    # stem's images want no gradient.
    return jax.linear_transpose(
        lambda x: _convolve_by_xla(x, kernel, window=window, **options),
        images.aval)(out)[0]
  padding = tuple(
      (size - 1 - low, size - 1 - high) for size, (low, high) in zip(
          window.kernel_size, window.padding, strict=True))
  turned = lax.rev(kernel.astype(out.dtype), (0, 1)).swapaxes(2, 3)
  return convolve(
      out, turned,
      window._replace(padding=padding, out_size=images.aval.shape[1:3]),
      **options).astype(images.aval.dtype)


def _transpose_kernel(
    out: jax.Array, images: jax.Array, kernel: Any, *, window: Window,
    **options: Any) -> jax.Array:
  """Pictures are a batch of channels; their gradients are the kernel."""
  padding = tuple(
      (low, taps + (size - 1) * stride - pixels - low)
      for taps, size, stride, pixels, (low, _) in zip(
          window.kernel_size, window.out_size, window.strides,
          images.shape[1:3], window.padding, strict=True))
  with xla_metadata.set_xla_metadata(inlineable='false'):
    return _correlate(
        images.astype(out.dtype), out, padding, window.strides,
        tuple(options.items())).astype(kernel.aval.dtype)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _correlate(
    images: jax.Array, out: jax.Array, padding: tuple[tuple[int, int], ...],
    strides: tuple[int, int], options: tuple[tuple[str, Any], ...]
) -> jax.Array:
  """[N, H, W, C] with [N, H', W', O] to [KH, KW, C, O].

  Called as a function that stays one: else XLA for CPUs would compute both of
  them again, from what they were computed of, in the order of the transposed
  arrays, whose neighbours are whole pictures apart.
  """
  taps = lax.conv_general_dilated(
      images.transpose(3, 1, 2, 0), out.transpose(1, 2, 0, 3), (1, 1), padding,
      rhs_dilation=strides, dimension_numbers=NHWC_HWIO, **dict(options))
  return taps.transpose(1, 2, 0, 3)


def _map_convolution(args: Any, axes: Any, **options: Any) -> Any:
  """Mapped images are more images; a kernel for each is XLA's own affair."""
  images, kernel = args
  if axes[1] is None:
    images = jnp.moveaxis(images, axes[0], 0)
    out = _convolution.bind(
        images.reshape(-1, *images.shape[2:]), kernel, **options)
    return out.reshape(*images.shape[:2], *out.shape[1:]), 0
  return jax.vmap(functools.partial(_convolve_by_xla, **options), axes)(
      images, kernel), 0


# Its gradients are convolutions of [N, H, W, C] with [KH, KW, C, O], too. XLA
# for CPUs gives those alone to Eigen; others it turns round first, but not in
# the body of a loop, where an input's gradient then takes 5 to 20 times as
# long, and a kernel's 40 to 90.
_convolution = core.Primitive('convolution_in_order')
_convolution.def_impl(_convolve_by_xla)
_convolution.def_abstract_eval(_describe_convolution)
ad.defbilinear(_convolution, _transpose_images, _transpose_kernel)
batching.primitive_batchers[_convolution] = _map_convolution
mlir.register_lowering(
    _convolution, mlir.lower_fun(_convolve_by_xla, multiple_results=False))

# Names of what a convolution, or a dense layer, is traced to.
PRODUCTS = frozenset((
    'conv_general_dilated', 'dot_general', _product.name, _convolution.name))

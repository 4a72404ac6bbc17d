"""Convolution that stays fast on CPU, in the form that its shape asks for.

XLA's own convolution is fast on CPU as long as its kernel is dense and fits the
picture. A ResNet on small pictures meets others in every block. Times are of
two cores (AMD EPYC, Zen 3) in ms, at 64 images (forward, input gradient, kernel
gradient), the least of nine:

* A kernel of more places than the picture (3x3 over 2x2, 256 channels). XLA
  swaps picture and kernel, a form its fast kernels do not take: 63, 60, 3;
  gathered patches times the kernel: 3, 3, 3; flattened pictures times one
  matrix, in which a tap stands wherever it joins two places: 2, 2, 2, as taps
  that see but padding are no work. Over 1x1, 512 channels: 26, 28, 3; patches
  3, 3, 3; matrix 0.5, 0.6, 1. Over 4x4 the matrix is mostly zeros, and loses.
* Strides (3x3 of stride 2, 4x4 to 2x2). XLA's input gradient is a dilated
  convolution, mostly of zeros. 128 to 256 channels: 1, 40, 2; patches 1, 1, 1;
  a product for each tap, added up, 1, 2, 2. 512 channels: 10, 864, 16; patches
  9, 9, 10; taps 9, 10, 14. At 16x16, 128 channels, where patches are large, 10,
  13, 11; patches 12, 14, 17; taps 9, 12, 16. So XLA goes forward, and taps
  back, except where few channels make narrow products.
* 1x1 kernels. XLA's kernel gradient transposes activations: 10 where a matrix
  product takes 6 (16x16, 64 to 256 channels).
* Loops, as over micro-batches. XLA's gradients take 5 to 90 times as long in
  them, whatever the shape: see `primitives`.

The choice depends on shapes only, so it costs nothing at run time. It is for
the library that `platforms.keep_convolutions_from_ynnpack` leaves XLA with.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import contextvars
import functools
import itertools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byol_jax.networks import primitives
from byol_jax.networks.primitives import Window

# Gathered patches are kernel-area times as large as the picture. Larger
# strided kernels (the 7x7 stem) lose more to memory than they gain.
_MAX_STRIDED_KERNEL_AREA = 9

# A product of fewer channels for each tap leaves most of a core idle.
_MIN_TAP_CHANNELS = 16

_ANY_PLATFORM = contextvars.ContextVar('any_platform', default=False)

_Multiply = Callable[[jax.Array, jax.Array], jax.Array]


@contextlib.contextmanager
def for_any_platform() -> Iterator[None]:
  """What is traced within it holds XLA's own convolutions alone.

  For programs that are to run elsewhere. What `jax.jit` has traced before is
  not traced again: give it a new function.
  """
  token = _ANY_PLATFORM.set(True)
  try:
    yield
  finally:
    _ANY_PLATFORM.reset(token)


def is_for_cpu() -> bool:
  """Whether what is traced now is to run on this machine's CPU."""
  return jax.default_backend() == 'cpu' and not _ANY_PLATFORM.get()


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: jax.typing.DTypeLike | None = None,
) -> jax.Array:
  """Drop-in for `lax.conv_general_dilated`, e.g. for `flax.linen.Conv`.

  Equal to it up to rounding, in value and in every derivative. It differs
  only for plain 2-D NHWC/HWIO convolutions on the CPU backend, in the form
  that `_choose_form` picks and in how gradients are written; all others are
  handed on unchanged.

  The backend is the default one when the function is traced: to compile for
  another platform ahead of time, trace within `for_any_platform()`.
  """
  if _is_plain(lhs, rhs, lhs_dilation, rhs_dilation, dimension_numbers,
               feature_group_count, batch_group_count):
    if precision is None:  # Gradients take what holds here, as lax's do.
      precision = jax.config.jax_default_matmul_precision
    elif isinstance(precision, list):
      precision = tuple(precision)
    return _convolve_for_cpu(
        lhs, rhs,
        _make_window(
            lhs.shape[1:3], rhs.shape[:2], tuple(window_strides), padding),
        precision=precision, preferred_element_type=preferred_element_type)
  return lax.conv_general_dilated(
      lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation,
      dimension_numbers, feature_group_count, batch_group_count, precision,
      preferred_element_type)


def _is_plain(
    lhs: jax.Array, rhs: jax.Array, lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None, dimension_numbers: Any,
    feature_group_count: int, batch_group_count: int,
) -> bool:
  """Whether this is a 2-D NHWC/HWIO convolution on CPU, with no extras."""
  return (
      is_for_cpu()
      and lhs.ndim == 4
      and lax.conv_dimension_numbers(
          lhs.shape, rhs.shape, dimension_numbers) == primitives.NHWC_HWIO
      and all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
      and feature_group_count == batch_group_count == 1)


def _make_window(
    in_size: tuple[int, int], kernel_size: tuple[int, int],
    strides: tuple[int, int], padding: str | Sequence[tuple[int, int]],
) -> Window:
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(in_size, kernel_size, strides, padding)
  out_size = tuple(
      (size + low + high - kernel) // stride + 1
      for size, (low, high), kernel, stride in zip(
          in_size, padding, kernel_size, strides, strict=True))
  return Window(kernel_size, strides, tuple(map(tuple, padding)), out_size)


def _convolve_for_cpu(
    images: jax.Array, kernel: jax.Array, window: Window, **options: Any
) -> jax.Array:
  """[N, H, W, C] and [KH, KW, C, O] to [N, H', W', O]."""
  multiply = functools.partial(primitives.multiply, **options)
  form = _choose_form(images.shape, window)
  if form == 'whole':
    return _as_whole_maps(images, kernel, window, multiply)
  if form == 'patches':
    return multiply(_patches(images, window), kernel)
  if form == 'taps':
    return _with_gradients_by_tap(images, kernel, window, multiply)
  return primitives.convolve(images, kernel, window, **options)


def _choose_form(shape: Sequence[int], window: Window) -> str:
  """What is fastest on CPU for a picture of such a shape, as measured."""
  kernel_area = math.prod(window.kernel_size)
  out_area = math.prod(window.out_size)
  if kernel_area == 1:
    return 'patches'
  if kernel_area > math.prod(shape[1:3]):
    return 'whole'
  if max(window.strides) > 1 and kernel_area <= _MAX_STRIDED_KERNEL_AREA:
    return 'patches' if shape[3] < _MIN_TAP_CHANNELS else 'taps'
  # The input gradient convolves a picture of the output's size.
  return 'patches' if kernel_area > out_area else 'convolution'


def _as_whole_maps(
    images: jax.Array, kernel: jax.Array, window: Window, multiply: _Multiply,
) -> jax.Array:
  """One product of flattened maps; the matrix says which tap joins which."""
  batch, *in_size, channels = images.shape
  outputs = kernel.shape[-1]
  # At place o, input i meets the tap i - o * stride + padding.
  lows, highs = [], []
  for size, out, taps, stride, (low, _) in zip(
      in_size, window.out_size, window.kernel_size, window.strides,
      window.padding, strict=True):
    lows.append(max(0, (out - 1) * stride - low))
    highs.append(max(0, size + low - taps))
  kernel = lax.pad(
      kernel, jnp.zeros((), kernel.dtype),
      [*((low, high, 0) for low, high in zip(lows, highs, strict=True)),
       (0, 0, 0), (0, 0, 0)])
  columns = []
  for place in itertools.product(*map(range, window.out_size)):
    begin = tuple(
        low + padding[0] - o * stride for low, padding, o, stride in zip(
            lows, window.padding, place, window.strides, strict=True))
    end = tuple(b + size for b, size in zip(begin, in_size, strict=True))
    columns.append(lax.slice(
        kernel, (*begin, 0, 0), (*end, channels, outputs)
    ).reshape(-1, outputs))
  matrix = lax.concatenate(columns, 1)
  out = multiply(images.reshape(batch, 1, 1, -1), matrix)
  return out.reshape(batch, *window.out_size, outputs)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _with_gradients_by_tap(
    images: jax.Array, kernel: jax.Array, window: Window, multiply: _Multiply,
) -> jax.Array:
  """XLA's convolution, whose gradients are products tap by tap."""
  return primitives.convolve(images, kernel, window, **multiply.keywords)


@_with_gradients_by_tap.defjvp
def _jvp_by_tap(
    window: Window, multiply: _Multiply, primals: Any, tangents: Any) -> Any:
  images, kernel = primals
  d_images, d_kernel = tangents
  out = _with_gradients_by_tap(images, kernel, window, multiply)
  return out, (
      _tap_by_tap(d_images, kernel, window, multiply)
      + _tap_by_tap(images, d_kernel, window, multiply))


def _tap_by_tap(
    images: jax.Array, kernel: jax.Array, window: Window, multiply: _Multiply,
) -> jax.Array:
  taps = kernel.reshape(-1, *kernel.shape[2:])
  return sum(
      multiply(seen, tap) for seen, tap in zip(
          _shifted(images, window), taps, strict=True))


def _patches(images: jax.Array, window: Window) -> jax.Array:
  """What the kernel sees at each place, [N, H', W', KH * KW * C]."""
  return lax.concatenate(_shifted(images, window), 3)


def _shifted(images: jax.Array, window: Window) -> list[jax.Array]:
  """What each tap of the kernel sees at each place, [N, H', W', C]."""
  if any(low or high for low, high in window.padding):
    zero = jnp.zeros((), images.dtype)
    config = [
        (0, 0, 0), *((low, high, 0) for low, high in window.padding),
        (0, 0, 0)]
    images = lax.pad(images, zero, config)
  batch, _, _, channels = images.shape
  rows, columns = (
      (size - 1) * stride + 1
      for size, stride in zip(window.out_size, window.strides, strict=True))
  return [
      lax.slice(
          images,
          (0, y, x, 0),
          (batch, y + rows, x + columns, channels),
          (1, *window.strides, 1))
      for y in range(window.kernel_size[0])
      for x in range(window.kernel_size[1])
  ]

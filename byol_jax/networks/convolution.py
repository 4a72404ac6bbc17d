"""Convolution that stays fast on CPU when feature maps are small.

XLA lowers convolutions poorly on CPU in three cases that a ResNet on small
pictures meets in every block. Written as one matrix product over gathered
patches, the same convolutions run 1.2 to 70 times faster there:

* The kernel covers more positions than the feature map (3x3 over 2x2). XLA
  then swaps picture and kernel, a form its fast kernels do not take.
* Strides. The input gradient becomes a dilated convolution, most of whose
  multiplications are by zero.
* 1x1 kernels. The kernel gradient transposes whole activations in memory.

Everywhere else XLA's own convolution wins, because it does not write out
patches. The choice depends on shapes only, so it costs nothing at run time.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import contextvars
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

_NHWC_HWIO = lax.ConvDimensionNumbers(
    lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2))

# Gathered patches are kernel-area times as large as the picture. Larger
# strided kernels (the 7x7 stem) lose more to memory than they gain.
_MAX_STRIDED_KERNEL_AREA = 9

_ANY_PLATFORM = contextvars.ContextVar('any_platform', default=False)


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
  only for plain 2-D NHWC/HWIO convolutions on the CPU backend whose shape
  `_prefers_matmul` picks out; all others are handed on unchanged.

  The backend is the default one when the function is traced: to compile for
  another platform ahead of time, trace within `for_any_platform()`.
  """
  if _is_plain(lhs, rhs, lhs_dilation, rhs_dilation, dimension_numbers,
               feature_group_count, batch_group_count):
    kernel_size = rhs.shape[:2]
    if isinstance(padding, str):
      padding = lax.padtype_to_pads(
          lhs.shape[1:3], kernel_size, window_strides, padding)
    out_size = tuple(
        (size + low + high - kernel) // stride + 1
        for size, (low, high), kernel, stride in zip(
            lhs.shape[1:3], padding, kernel_size, window_strides,
            strict=True))
    if _prefers_matmul(lhs.shape[1:3], out_size, kernel_size, window_strides):
      patches = _patches(
          lhs, kernel_size, window_strides, padding, out_size)
      # Two-dimensional operands: contracting several dimensions at once
      # would make the kernel gradient transpose activations in memory.
      out = lax.dot(
          patches.reshape(-1, patches.shape[-1]),
          rhs.reshape(-1, rhs.shape[-1]),
          precision=precision,
          preferred_element_type=preferred_element_type)
      return out.reshape(*patches.shape[:-1], rhs.shape[-1])
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
      jax.default_backend() == 'cpu'
      and not _ANY_PLATFORM.get()
      and lhs.ndim == 4
      and lax.conv_dimension_numbers(
          lhs.shape, rhs.shape, dimension_numbers) == _NHWC_HWIO
      and all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
      and feature_group_count == batch_group_count == 1)


def _prefers_matmul(
    in_size: Sequence[int],
    out_size: Sequence[int],
    kernel_size: Sequence[int],
    strides: Sequence[int],
) -> bool:
  """Whether a matrix product beats XLA's convolution on CPU, as measured."""
  kernel_area = kernel_size[0] * kernel_size[1]
  # The input gradient convolves a picture of the output's size.
  smallest_area = min(in_size[0] * in_size[1], out_size[0] * out_size[1])
  strided = max(strides) > 1 and kernel_area <= _MAX_STRIDED_KERNEL_AREA
  return kernel_area == 1 or kernel_area > smallest_area or strided


def _patches(
    images: jax.Array,
    kernel_size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    out_size: Sequence[int],
) -> jax.Array:
  """What the kernel sees at each place, [N, H', W', KH * KW * C]."""
  if any(low or high for low, high in padding):
    zero = jnp.zeros((), images.dtype)
    config = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    images = lax.pad(images, zero, config)
  batch, _, _, channels = images.shape
  rows, columns = (
      (size - 1) * stride + 1
      for size, stride in zip(out_size, strides, strict=True))
  shifted = [
      lax.slice(
          images,
          (0, y, x, 0),
          (batch, y + rows, x + columns, channels),
          (1, *strides, 1))
      for y in range(kernel_size[0])
      for x in range(kernel_size[1])
  ]
  return lax.concatenate(shifted, 3)

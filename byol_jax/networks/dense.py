"""A prediction for every pixel, from an encoder's maps."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byol_jax.networks import transfer


class DenseTransfer(transfer.Transfer):
  """A `Transfer` whose head's maps are enlarged to the images' size.

  The encoder's position (i, j) must be centred on pixel (i, j) times its
  stride. With symmetric padding it always is; with `same`, where heights and
  widths are a multiple of the stride plus 1.

  Attributes:
    stride: pixels of the image between neighbours of the head's output.
  """

  stride: float = 1.0

  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images f32[B, H, W, 3] in [0, 1] to f32[B, H, W, C]."""
    outputs = super().__call__(images, train=train).astype(images.dtype)
    return enlarge(outputs, images.shape[1:3], self.stride)


def enlarge(
    x: jax.Array, size: tuple[int, int], stride: float) -> jax.Array:
  """Bilinear interpolation between values that lie `stride` pixels apart.

  Value (i, j) is that of pixel (i, j) * stride; beyond the last one it stays.

  Args:
    x: f32[B, h, w, C].
    size: (H, W) of the result.
    stride: at most 1 where there are more values than pixels.

  Returns:
    f32[B, H, W, C].
  """
  rows, columns = (
      jnp.asarray(_interpolation_weights(full, count, stride), x.dtype)
      for full, count in zip(size, x.shape[1:3], strict=True))
  x = jnp.einsum('yi,bijc->byjc', rows, x, precision=lax.Precision.HIGHEST)
  return jnp.einsum(
      'xj,byjc->byxc', columns, x, precision=lax.Precision.HIGHEST)


def _interpolation_weights(
    size: int, count: int, stride: float) -> np.ndarray:
  """f64[size, count], rows summing to one."""
  positions = np.clip(np.arange(size) / stride, 0, count - 1)
  distance = np.abs(positions[:, None] - np.arange(count)[None])
  return np.maximum(1 - distance, 0)

"""Bicubic resizing of a box of an image, in jax.numpy.

Gives what `tf.image.resize(method=BICUBIC)`, without antialiasing, gives on the
box's pixels, to rounding. Rows and columns are resized by the same loop over
contiguous memory, which ends with turning the axes.
"""

import jax
from jax import lax
import jax.numpy as jnp

# TF's bicubic kernel looks its weights up at a fractional position rounded to
# this many steps. Rounding the same way is what makes both agree.
_KERNEL_STEPS = 1024.0


def resize_box(
    image: jax.Array, box: jax.Array, mirrored: jax.Array, size: int, *,
    turned: bool = False) -> jax.Array:
  """Resizes a box of an image to a square.

  Args:
    image: uint8 [H, W, 3].
    box: int32 [4], (y, x, height, width) in pixels, at least one pixel and
      inside the image.
    mirrored: bool [], whether to mirror the result's columns.
    size: S.
    turned: whether the result's rows are the image's columns, which leaves the
      second turn to somebody else.

  Returns:
    float32 [3, S, S] in [0, 1]; what overshoots is clipped.
  """
  rows, columns = (_taps(box[i], box[i + 2], size) for i in range(2))
  columns = tuple(jnp.where(mirrored, x[::-1], x) for x in columns)
  # XLA turns a matrix faster than it permutes three axes.
  halfway = _resample(image, *rows).reshape(size, -1).T
  halfway = halfway.reshape(-1, 3, size)  # [W, 3, S]

  # A branch that is always taken is compiled apart. In one with what precedes
  # it, XLA would fetch every tap from memory that is not turned yet.
  def finish(*args: jax.Array) -> jax.Array:
    return jnp.clip(_resample(*args) / 255.0, 0.0, 1.0)

  resized = lax.cond(
      box[3] > 0, finish, lambda *_: jnp.zeros((size, 3, size)), halfway,
      *columns)
  if turned:
    return jnp.transpose(resized, (1, 0, 2))
  return resized.reshape(size, -1).T.reshape(3, size, size)


def _resample(
    x: jax.Array, index: jax.Array, weights: jax.Array) -> jax.Array:
  """Weighs rows of [N, A, B]: float32 [S, A, B]."""
  count, *shape = x.shape
  x = x.reshape(count, -1)
  rows = sum(
      weights[:, tap, None]
      * x.at[index[:, tap]].get(mode='promise_in_bounds').astype(jnp.float32)
      for tap in range(weights.shape[1]))
  return rows.reshape(-1, *shape)


def _taps(
    start: jax.Array, length: jax.Array, size: int
) -> tuple[jax.Array, jax.Array]:
  """Which pixels make each pixel of the result, on one axis: [S, 4] each.

  Keys' kernel (a = -0.5) at half-pixel centres. What falls outside the box has
  weight zero, and the rest is renormalised.
  """
  scale = length.astype(jnp.float32) / size
  location = (jnp.arange(size, dtype=jnp.float32) + 0.5) * scale - 0.5
  # Its floor, exactly. Places and weights are computed apart, and location may
  # be rounded otherwise for either: at a pixel's centre, down for one alone.
  floor = ((2 * jnp.arange(size) + 1) * length - size) // (2 * size)
  fraction = location - floor.astype(jnp.float32)
  fraction = jnp.round(fraction * _KERNEL_STEPS) / _KERNEL_STEPS
  offsets = jnp.arange(-1, 3, dtype=jnp.float32)
  weights = _keys_kernel(jnp.abs(fraction[:, None] - offsets[None]))
  places = floor[:, None] + jnp.arange(-1, 3)[None]
  inside = (places >= 0) & (places < length)
  weights = jnp.where(inside, weights, 0.0)
  weights /= jnp.sum(weights, axis=1, keepdims=True)
  return start + jnp.clip(places, 0, length - 1), weights


def _keys_kernel(distance: jax.Array) -> jax.Array:
  near = (1.5 * distance - 2.5) * distance * distance + 1.0
  far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
  far = jnp.where(distance < 2.0, far, 0.0)
  return jnp.where(distance <= 1.0, near, far)

"""Crops of images to what a batch holds of them, compiled for the host.

Two programs for each image: one crops and resizes, the other finishes. Images
in memory are all of one size, and a program takes many of them, row by row.
Encoded ones come one at a time, as they are decoded, in any size: their crops
are padded to one of a few sizes, each of which is compiled once.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import ml_collections

from byol_jax.augmentation import photometric
from byol_jax.augmentation import resize
from byol_jax.data import compiled
from byol_jax.quiet_tensorflow import tf

# Sides of padded crops: powers of two, and halfway between them.
_SIDES = tuple(side for n in range(5, 26) for side in (2**n, 3 * 2**(n - 1)))

# Maps a crop, float32 [3, S, S] in [0, 1], and its draws, float32 [D], to an
# image [S, S, 3]. Equal ones must be the same object: each is compiled once.
Finish = Callable[[jax.Array, jax.Array], jax.Array]


def to_image(planes: jax.Array, draws: jax.Array) -> jax.Array:
  """As it is, float32 in [0, 1]."""
  del draws
  return jnp.transpose(planes, (1, 2, 0))


def to_pixels(planes: jax.Array, draws: jax.Array) -> jax.Array:
  """To the nearest uint8."""
  return to_image(jnp.round(planes * 255.0).astype(jnp.uint8), draws)


def to_view(settings: ml_collections.ConfigDict) -> Finish:
  """The colours of a view with these settings, float32 in [0, 1]."""
  return _to_view(ml_collections.FrozenConfigDict(settings))


@functools.cache
def _to_view(settings: ml_collections.FrozenConfigDict) -> Finish:
  return functools.partial(photometric.photometric, settings=settings)


def rows(
    images: tf.Tensor, boxes: tf.Tensor, mirrored: tf.Tensor, draws: tf.Tensor,
    *, size: int, finish: Finish) -> tf.Tensor:
  """One crop of each of several images of one size.

  Args:
    images: uint8 [n, H, W, 3].
    boxes: int32 [n, 4], inside them.
    mirrored: bool [n].
    draws: float32 [n, D].
    size: S.
    finish: see above.

  Returns:
    [n, S, S, 3].
  """
  planes = _crop_rows(size)(images, boxes, mirrored)
  return _finish_rows(finish)(planes, draws)


def one(
    pixels: tf.Tensor, mirrored: tf.Tensor, draws: tf.Tensor, *, size: int,
    finish: Finish) -> tf.Tensor:
  """One crop that is already cut out.

  Args:
    pixels: uint8 [h, w, 3] of any size.
    mirrored: bool [].
    draws: float32 [D].
    size: S.
    finish: see above.

  Returns:
    [S, S, 3].
  """
  shape = tf.shape(pixels)[:2]
  sides = tf.constant(_SIDES)
  side = sides[tf.searchsorted(sides, tf.reduce_max(shape, keepdims=True))[0]]
  # As a matrix, which is padded many times faster than an image.
  padded = tf.pad(
      tf.reshape(pixels, [shape[0], 3 * shape[1]]),
      [[0, side - shape[0]], [0, 3 * (side - shape[1])]])
  planes = _crop_padded(size)(
      tf.reshape(padded, [side, side, 3]), tf.concat([[0, 0], shape], axis=0),
      mirrored)
  return _finish_one(finish)(tf.ensure_shape(planes, [3, size, size]), draws)


@functools.cache
def _crop_rows(size: int) -> Callable[..., tf.Tensor]:
  return compiled.each_for_host(
      functools.partial(resize.resize_box, size=size))


@functools.cache
def _crop_padded(size: int) -> Callable[..., tf.Tensor]:
  return compiled.for_host(
      functools.partial(resize.resize_box, size=size),
      shapes=('(side, side, 3)', '(4,)', '()'))


@functools.cache
def _finish_rows(finish: Finish) -> Callable[..., tf.Tensor]:
  return compiled.each_for_host(finish)


@functools.cache
def _finish_one(finish: Finish) -> Callable[..., tf.Tensor]:
  return compiled.for_host(finish)

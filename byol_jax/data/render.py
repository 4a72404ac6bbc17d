"""Crops of images to what a batch holds of them, compiled for the host.

Images in memory are all of one size, and a program takes many of them, row by
row. Encoded ones come one at a time, as they are decoded, in any size: their
crops are padded to one of a few sizes, each of which is compiled once.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import ml_collections

from byol_jax.augmentation import photometric
from byol_jax.augmentation import resize
from byol_jax.data import compiled
from byol_jax.quiet_tensorflow import tf

# Sides of padded crops: of more of them less is padding, and more compiled.
_SIDES = (32, 64, 128, 192) + tuple(
    part * 2**n for n in range(6, 24) for part in (4, 5, 6, 7))


class Finish(NamedTuple):
  """What becomes of a crop, float32 [3, S, S] in [0, 1].

  Attributes:
    last: what the program that crops ends with: from the crop to [S, S, 3], or,
      where there is more to do, to itself or its bytes.
    view: or, from the crop and its draws, float32 [D], a program of its own,
      which is large, and so compiled once for crops of all sizes.
    turned: whether the crop's rows are the image's columns.
  """
  last: Callable[[jax.Array], jax.Array]
  view: Callable[[jax.Array, jax.Array], jax.Array] | None = None
  turned: bool = False


def _to_planes(crop: jax.Array) -> jax.Array:
  return crop


def _to_image(crop: jax.Array) -> jax.Array:
  return jnp.transpose(crop, (1, 2, 0))


def _to_pixels(crop: jax.Array) -> jax.Array:
  whole = jnp.round(crop * 255.0)
  # XLA's conversion would first look for what is no byte. These are, and are
  # the lowest bits of a float32 from which on all are whole.
  bits = lax.bitcast_convert_type(whole + 2.0**23, jnp.uint32)
  return bits.astype(jnp.uint8)


IMAGE = Finish(_to_image)  # as it is, float32 in [0, 1]
# To the nearest uint8; what is left to do turns it as well.
PIXELS = Finish(_to_pixels, turned=True)


class Cut(NamedTuple):
  """How crops are cut out of images, with any leading axes; see `make_cuts`.

  An image is a matrix here, uint8 [H, 3 W], from which a part is taken and
  padded below and to the right, which makes it a square image again.
  """
  start: tf.Tensor  # int32 [..., 2], of the part in the matrix
  size: tf.Tensor  # int32 [..., 2], of the part
  padding: tf.Tensor  # int32 [..., 2, 2], as `tf.pad` takes it
  shape: tf.Tensor  # int32 [..., 3], (side, side, 3) of the square
  box: tf.Tensor  # int32 [..., 4], of the crop in it, (y, x, height, width)


def make_view(settings: ml_collections.ConfigDict) -> Finish:
  """The colours of a view with these settings, float32 in [0, 1]."""
  return _make_view(ml_collections.FrozenConfigDict(settings))


@functools.cache
def _make_view(settings: ml_collections.FrozenConfigDict) -> Finish:
  return Finish(_to_planes, functools.partial(
      photometric.photometric, settings=settings))


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
    finish: what becomes of the crop.

  Returns:
    [n, S, S, 3], or, of `PIXELS`, [n, 3, S, S].
  """
  crops = _crop_rows(size, finish.last, finish.turned)(images, boxes, mirrored)
  if finish.view is None:
    return crops
  return _view_rows(finish.view)(crops, draws)


def make_cuts(boxes: tf.Tensor, sizes: tf.Tensor) -> Cut:
  """How boxes, int32 [..., 4], are cut out of images of sizes, int32 [..., 2].

  For many at once it takes no more operations than for one, and their number
  is what TensorFlow takes its time for.
  """
  corner, size = boxes[..., :2], boxes[..., 2:]
  longest = tf.reduce_max(size, axis=-1, keepdims=True)
  shorter = tf.cast(longest > tf.constant(_SIDES), tf.int32)
  side = tf.gather(_SIDES, tf.reduce_sum(shorter, axis=-1, keepdims=True))
  # As large as the image has it: what is padding is copied once more.
  part = tf.minimum(side, sizes)
  start = tf.minimum(corner, sizes - part)
  # A matrix is cut and padded many times faster than an image.
  channels = tf.constant([1, 3])
  padding = (side - part) * channels
  return Cut(
      start * channels, part * channels,
      tf.stack([tf.zeros_like(padding), padding], axis=-1),
      tf.concat([side, side, 3 * tf.ones_like(side)], axis=-1),
      tf.concat([corner - start, size], axis=-1))


def one(
    image: tf.Tensor, cut: Cut, mirrored: tf.Tensor, draws: tf.Tensor, *,
    size: int, finish: Finish) -> tf.Tensor:
  """One crop of one image.

  Args:
    image: uint8 [H, W, 3] of any size.
    cut: of a box inside it, without leading axes.
    mirrored: bool [].
    draws: float32 [D].
    size: S.
    finish: what becomes of the crop.

  Returns:
    [S, S, 3], or, of `PIXELS`, [3, S, S].
  """
  matrix = tf.reshape(image, [tf.shape(image)[0], -1])
  padded = tf.pad(tf.slice(matrix, cut.start, cut.size), cut.padding)
  padded = tf.ensure_shape(tf.reshape(padded, cut.shape), [None, None, 3])
  crop = _crop_one(size, finish.last, finish.turned)(padded, cut.box, mirrored)
  crop = tf.ensure_shape(crop, jax.eval_shape(
      finish.last, jax.ShapeDtypeStruct((3, size, size), jnp.float32)).shape)
  return crop if finish.view is None else _view_one(finish.view)(crop, draws)


def _crop_fn(
    size: int, last: Callable[[jax.Array], jax.Array], turned: bool
) -> Callable[..., jax.Array]:
  return lambda *args: last(
      resize.resize_box(*args, size, turned=turned))


@functools.cache
def _crop_rows(
    size: int, last: Callable[[jax.Array], jax.Array], turned: bool
) -> Callable[..., tf.Tensor]:
  return compiled.each_for_host(_crop_fn(size, last, turned))


@functools.cache
def _crop_one(
    size: int, last: Callable[[jax.Array], jax.Array], turned: bool
) -> Callable[..., tf.Tensor]:
  return compiled.for_host(
      _crop_fn(size, last, turned), shapes=('(side, side, 3)', '(4,)', '()'))


@functools.cache
def _view_rows(view: Callable[..., jax.Array]) -> Callable[..., tf.Tensor]:
  return compiled.each_for_host(view)


@functools.cache
def _view_one(view: Callable[..., jax.Array]) -> Callable[..., tf.Tensor]:
  return compiled.for_host(view)

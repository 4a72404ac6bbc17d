"""Encoded images to pixels, in the graph: what TensorFlow's decoders do."""

from collections.abc import Callable
from collections.abc import Sequence

import tensorflow as tf

from byol_jax.data import image_header
from byol_jax.data.examples import EncodedSource


def decode(encoded: tf.Tensor, max_pixels: int) -> tf.Tensor:
  """A whole image, of an animation the first frame.

  Args:
    encoded: string scalar, the contents of a JPEG, PNG, BMP, GIF or WebP file.
    max_pixels: of the image; where there are more, nothing is decoded and the
      operation fails.

  Returns:
    uint8 [H, W, 3].
  """
  def check_jpeg() -> tf.Tensor:
    shape = tf.io.extract_jpeg_shape(encoded)
    with tf.control_dependencies([
        image_header.refuse_large(shape, max_pixels)]):
      return tf.identity(encoded)

  checked = tf.cond(tf.io.is_jpeg(encoded), check_jpeg,
                    lambda: image_header.check(encoded, max_pixels))
  return tf.io.decode_image(checked, channels=3, expand_animations=False)


def decode_boxes(
    encoded: tf.Tensor,
    make_boxes: Callable[[tf.Tensor], Sequence[tf.Tensor]],
    finish: Callable[[tf.Tensor], tf.Tensor],
    max_pixels: int) -> tuple[tf.Tensor, ...]:
  """Boxes of an image; of a JPEG nothing else is decoded.

  Args:
    encoded: string scalar, as for `decode`.
    make_boxes: the image's shape, int32 [3], to boxes, int32 [4] each; see
      `crop`.
    finish: what is made of each box's pixels, uint8 [h, w, 3].
    max_pixels: as for `decode`.

  Returns:
    Of each box, what `finish` makes of it.
  """
  def from_jpeg() -> tuple[tf.Tensor, ...]:
    shape = tf.io.extract_jpeg_shape(encoded)
    with tf.control_dependencies([
        image_header.refuse_large(shape, max_pixels)]):
      shape = tf.identity(shape)
    return tuple(
        finish(tf.image.decode_and_crop_jpeg(encoded, box, channels=3))
        for box in make_boxes(shape))

  def from_other() -> tuple[tf.Tensor, ...]:
    image = decode(encoded, max_pixels)
    return tuple(
        finish(tf.image.crop_to_bounding_box(image, *tf.unstack(box)))
        for box in make_boxes(tf.shape(image)))

  return tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_other)


def problem(source: EncodedSource, index: int) -> str:
  """Why an example cannot be read, in a few words after its name."""
  try:
    encoded = source.load(tf.constant(index, tf.int64))['image']
  except tf.errors.NotFoundError:
    return 'is not there any more'
  except tf.errors.OpError as error:
    if 'no such label' in error.message:
      return 'has a label that is no class'
    return 'cannot be read'
  try:
    decode(encoded, source.max_image_pixels)
  except tf.errors.OpError as error:
    if 'implausibly large' in error.message:
      return 'is implausibly large'
    return 'is empty' if not encoded.numpy() else 'cannot be decoded'
  return 'could not be read for a moment'

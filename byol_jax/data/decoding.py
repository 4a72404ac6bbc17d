"""Encoded images to pixels, in the graph: what TensorFlow's decoders do."""

from collections.abc import Callable

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


# As a part of the graph, all that other formats take would be passed through
# for each JPEG, which takes as long as a third of the rest around its decoder.
_decode_apart = tf.function(
    decode, autograph=False, experimental_attributes={'_noinline': True})


def decode_around(
    encoded: tf.Tensor, make_boxes: Callable[[tf.Tensor], tf.Tensor],
    max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
  """What is around boxes of an image: of a JPEG little else is decoded.

  Args:
    encoded: string scalar, as for `decode`.
    make_boxes: the image's shape, int32 [3], to boxes, int32 [K, 4]; see
      `crop`.
    max_pixels: as for `decode`.

  Returns:
    Pixels, uint8 [h, w, 3], and where the boxes are in them.
  """
  def from_jpeg() -> tuple[tf.Tensor, tf.Tensor]:
    shape = tf.io.extract_jpeg_shape(encoded)
    with tf.control_dependencies([
        image_header.refuse_large(shape, max_pixels)]):
      boxes = make_boxes(tf.identity(shape))
    start = tf.reduce_min(boxes[:, :2], axis=0)
    end = tf.reduce_max(boxes[:, :2] + boxes[:, 2:], axis=0)
    around = tf.concat([start, end - start], axis=0)
    return (tf.image.decode_and_crop_jpeg(encoded, around, channels=3),
            boxes - tf.concat([start, [0, 0]], axis=0))

  def from_other() -> tuple[tf.Tensor, tf.Tensor]:
    image = _decode_apart(encoded, max_pixels)
    return image, make_boxes(tf.shape(image))

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

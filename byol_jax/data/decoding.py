"""Encoded images to pixels, in the graph: what TensorFlow's decoders do."""

import functools

import tensorflow as tf

from byol_jax.data import image_header
from byol_jax.data.examples import EncodedSource

# Columns of a JPEG's blocks, or a multiple of them, but for unusual ones. The
# parts that begin at one TensorFlow decodes in place; others it decodes from
# there, too, and then copies row by row.
BLOCK = 16


def measure(
    encoded: tf.Tensor, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
  """What a decoder may be given of an image, and its size.

  Args:
    encoded: string scalar, the contents of a JPEG, PNG, BMP, GIF or WebP file.
    max_pixels: of the image; where there are more, the operation fails.

  Returns:
    The same, but of a GIF its first frame alone; int32 [2], height and width.
  """
  def of_jpeg() -> tuple[tf.Tensor, tf.Tensor]:
    shape = tf.io.extract_jpeg_shape(encoded)
    with tf.control_dependencies([
        image_header.refuse_large(shape, max_pixels)]):
      return tf.identity(encoded), shape[:2]

  return tf.cond(tf.io.is_jpeg(encoded), of_jpeg,
                 lambda: _check_apart(encoded, max_pixels))


def decode(encoded: tf.Tensor, max_pixels: int) -> tf.Tensor:
  """A whole image, of an animation the first frame; arguments as `measure`.

  Returns:
    uint8 [H, W, 3].
  """
  return _decode(measure(encoded, max_pixels)[0])


def decode_part(encoded: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
  """A part of an image: of a JPEG little else is decoded.

  Args:
    encoded: string scalar, as `measure` gives it.
    box: int32 [4] inside the image, (y, x, height, width) in pixels.

  Returns:
    uint8 [height, width, 3].
  """
  def from_other() -> tf.Tensor:
    y, x, height, width = tf.unstack(box)
    return _decode_apart(encoded)[y:y + height, x:x + width]

  return tf.cond(
      tf.io.is_jpeg(encoded),
      lambda: tf.image.decode_and_crop_jpeg(encoded, box, channels=3),
      from_other)


def _decode(encoded: tf.Tensor) -> tf.Tensor:
  return tf.io.decode_image(encoded, channels=3, expand_animations=False)


# As parts of the graph, all that other formats take would be passed through for
# each JPEG, which takes as long as a third of the rest around its decoder.
_apart = functools.partial(
    tf.function, autograph=False, experimental_attributes={'_noinline': True})
_check_apart, _decode_apart = _apart(image_header.check), _apart(_decode)


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

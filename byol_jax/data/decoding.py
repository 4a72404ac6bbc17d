"""Encoded images to pixels, in the graph: what TensorFlow's decoders do."""

from collections.abc import Callable
from collections.abc import Sequence

import tensorflow as tf

from byol_jax.data.examples import EncodedSource


def decode(encoded: tf.Tensor) -> tf.Tensor:
  """A whole image, of an animation the first frame.

  Args:
    encoded: string scalar, the contents of a JPEG, PNG, BMP or GIF file.

  Returns:
    uint8 [H, W, 3].
  """
  return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def decode_boxes(
    encoded: tf.Tensor,
    make_boxes: Callable[[tf.Tensor], Sequence[tf.Tensor]],
    finish: Callable[[tf.Tensor], tf.Tensor]) -> tuple[tf.Tensor, ...]:
  """Boxes of an image; of a JPEG nothing else is decoded.

  Args:
    encoded: string scalar, as for `decode`.
    make_boxes: the image's shape, int32 [3], to boxes, int32 [4] each; see
      `crop`.
    finish: what is made of each box's pixels, uint8 [h, w, 3].

  Returns:
    Of each box, what `finish` makes of it.
  """
  def from_jpeg() -> tuple[tf.Tensor, ...]:
    shape = tf.io.extract_jpeg_shape(encoded)
    return tuple(
        finish(tf.image.decode_and_crop_jpeg(encoded, box, channels=3))
        for box in make_boxes(shape))

  def from_other() -> tuple[tf.Tensor, ...]:
    image = decode(encoded)
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
  except tf.errors.OpError:
    return 'cannot be read'
  try:
    decode(encoded)
  except tf.errors.OpError:
    return 'is empty' if not encoded.numpy() else 'cannot be decoded'
  return 'could not be read for a moment'

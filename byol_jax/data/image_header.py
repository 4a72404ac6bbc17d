"""How large an image says it is, in the graph, before anything is decoded.

A few megabytes of a PNG or GIF can be decoded to many gigabytes. What is
larger than a stated limit, or of no format known here, is refused by an
operation that fails.
"""

import tensorflow as tf

_HEADER_BYTES = 32
_PNG, _BMP, _GIF = b'\x89PNG\r\n\x1a\n', b'BM', b'GIF8'
_RIFF, _WEBP = b'RIFF', b'WEBP'
# Steps through a GIF's blocks, of at most 255 bytes each.
_MAX_GIF_STEPS = 2**19
_EXTENSION, _FRAME = 0x21, 0x2C
# What is read next of a GIF.
_BLOCK, _EXTENSION_DATA, _FRAME_DATA, _END = range(4)


def refuse_large(shape: tf.Tensor, max_pixels: int) -> tf.Operation:
  """Fails where an image has too many pixels.

  Args:
    shape: whole numbers [2] or more, its height and width first.
    max_pixels: that are allowed.
  """
  pixels = tf.reduce_prod(tf.cast(shape[:2], tf.int64))
  return tf.debugging.Assert(
      (pixels <= max_pixels) & tf.reduce_all(shape[:2] > 0),
      ['implausibly large:', pixels, 'pixels'])


def check(
    encoded: tf.Tensor, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
  """What a decoder may be given of a PNG, BMP, GIF or WebP file, and its size.

  Args:
    encoded: string scalar.
    max_pixels: that are allowed.

  Returns:
    The same; of a GIF, what comes before its second frame, for TensorFlow's
    decoder holds all of them. And int32 [2], height and width.
  """
  header = tf.io.decode_raw(
      tf.strings.substr(encoded, 0, _HEADER_BYTES), tf.uint8)
  header = tf.cast(tf.pad(header, [[0, _HEADER_BYTES - tf.size(header)]]),
                   tf.int64)

  def same(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.control_dependencies([refuse_large(shape, max_pixels)]):
      return tf.identity(encoded), tf.cast(shape, tf.int32)

  def unknown() -> tuple[tf.Tensor, tf.Tensor]:
    with tf.control_dependencies([tf.debugging.Assert(
        False, ['no JPEG, PNG, BMP, GIF or WebP file'])]):
      return tf.identity(encoded), tf.zeros([2], tf.int32)

  return tf.case([
      (_starts_with(header, _PNG),
       lambda: same(_big_endian(header, (20, 16)))),
      (_starts_with(header, _GIF), lambda: _first_frame(encoded, max_pixels)),
      (_starts_with(header, _BMP),
       lambda: same(tf.abs(_signed(_little_endian(header, (22, 18), 4))))),
      (_starts_with(header, _RIFF) & _starts_with(header, _WEBP, at=8),
       lambda: same(_webp_shape(header))),
  ], default=unknown)


def _starts_with(header: tf.Tensor, magic: bytes, at: int = 0) -> tf.Tensor:
  return tf.reduce_all(
      header[at:at + len(magic)] == tf.constant(list(magic), tf.int64))


def _big_endian(header: tf.Tensor, places: tuple[int, ...]) -> tf.Tensor:
  """Whole numbers of four bytes, at each of the places."""
  factors = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
  return tf.stack([
      tf.reduce_sum(header[place:place + 4] * factors) for place in places])


def _little_endian(
    data: tf.Tensor, places: tuple[int | tf.Tensor, ...], count: int
) -> tf.Tensor:
  """Whole numbers of `count` bytes, at each of the places."""
  factors = tf.constant([2**(8 * i) for i in range(count)], tf.int64)
  return tf.stack([
      tf.reduce_sum(tf.cast(data[place:place + count], tf.int64) * factors)
      for place in places])


def _signed(words: tf.Tensor) -> tf.Tensor:
  return tf.where(words < 2**31, words, words - 2**32)


def _webp_shape(header: tf.Tensor) -> tf.Tensor:
  """Height and width, from whichever of the three kinds of first chunk."""
  bits = _little_endian(header, (21,), 4)[0]
  return tf.case([
      (_starts_with(header, b'VP8X', at=12),
       lambda: _little_endian(header, (27, 24), 3) + 1),
      (_starts_with(header, b'VP8L', at=12),
       lambda: tf.stack([bits // 2**14 % 2**14, bits % 2**14]) + 1),
  ], default=lambda: _little_endian(header, (28, 26), 2) % 2**14)


def _first_frame(
    encoded: tf.Tensor, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
  """A GIF with the first of its frames, whose size is the image's."""
  data = tf.io.decode_raw(encoded, tf.uint8)

  def number(place: tf.Tensor) -> tf.Tensor:
    return tf.cast(data[place], tf.int64)

  def palette_bytes(flags: tf.Tensor) -> tf.Tensor:
    size = tf.bitwise.left_shift(tf.constant(6, tf.int64), flags % 8)
    return tf.where(flags >= 128, size, 0)

  def block(place: tf.Tensor, shape: tf.Tensor):
    """An extension or a frame begins here."""
    kind = number(place)
    with tf.control_dependencies([tf.debugging.Assert(
        (kind == _EXTENSION) | (kind == _FRAME), ['a damaged GIF'])]):
      is_frame = tf.identity(kind == _FRAME)
    return tf.cond(
        is_frame,
        lambda: (place + 11 + palette_bytes(number(place + 9)),
                 tf.constant(_FRAME_DATA),
                 _little_endian(data, (place + 7, place + 5), 2)),
        lambda: (place + 2, tf.constant(_EXTENSION_DATA), shape))

  def data_block(place: tf.Tensor, state: tf.Tensor, shape: tf.Tensor):
    """Up to 255 bytes follow, or none, which ends them."""
    count = number(place)
    after = tf.where(state == _FRAME_DATA, _END, _BLOCK)
    return place + 1 + count, tf.where(count == 0, after, state), shape

  def step(place: tf.Tensor, state: tf.Tensor, shape: tf.Tensor):
    return tf.cond(
        state == _BLOCK, lambda: block(place, shape),
        lambda: data_block(place, state, shape))

  canvas = _little_endian(data, (8, 6), 2)
  end, state, shape = tf.while_loop(
      lambda place, state, shape: state != _END, step,
      (13 + palette_bytes(number(tf.constant(10))), tf.constant(_BLOCK),
       canvas), maximum_iterations=_MAX_GIF_STEPS)
  with tf.control_dependencies([
      refuse_large(canvas, max_pixels), refuse_large(shape, max_pixels),
      tf.debugging.Assert(state == _END, ['a GIF of too many blocks'])]):
    return tf.strings.join([
        tf.strings.substr(encoded, 0, tf.cast(end, tf.int32)), b';'
    ]), tf.cast(shape, tf.int32)

"""Sizes that files state, found without decoding; and bombs, refused."""

import io

import numpy as np
from PIL import Image
import pytest

from byol_jax.data import decoding
from byol_jax.data import image_header

import tensorflow as tf  # isort: skip

_HEIGHT, _WIDTH = 21, 34


def _encode(kind: str, **options) -> bytes:
  pixels = np.random.default_rng(0).integers(
      0, 255, (_HEIGHT, _WIDTH, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, kind, **options)
  return buffer.getvalue()


def _animation(count: int, **options) -> bytes:
  return _encode('GIF', save_all=True, append_images=[
      Image.new('RGB', (_WIDTH, _HEIGHT), (i, 0, 0)) for i in range(count)],
                 **options)


_FILES = {
    'jpeg': _encode('JPEG'), 'png': _encode('PNG'), 'bmp': _encode('BMP'),
    'gif': _encode('GIF'), 'animation': _animation(5, comment=b'x' * 700),
    'webp': _encode('WEBP'), 'lossless': _encode('WEBP', lossless=True),
    'extended': _encode('WEBP', exif=b'Exif\0\0II*\0\x08\0\0\0\0\0')}


@pytest.mark.parametrize('kind', _FILES)
def test_the_limit_is_exact_and_changes_no_pixel(kind):
  decode = tf.function(decoding.decode)  # as in a pipeline
  encoded = tf.constant(_FILES[kind])
  expected = tf.io.decode_image(encoded, channels=3, expand_animations=False)
  np.testing.assert_array_equal(
      decode(encoded, _HEIGHT * _WIDTH),
      expected if expected.shape.rank == 3 else expected[0])
  with pytest.raises(tf.errors.InvalidArgumentError, match='implausibly'):
    decode(encoded, _HEIGHT * _WIDTH - 1)


@pytest.mark.parametrize('kind', _FILES)
def test_a_part_is_that_of_the_whole(kind):
  encoded, size = decoding.measure(tf.constant(_FILES[kind]), 10**6)
  np.testing.assert_array_equal(size, [_HEIGHT, _WIDTH])
  for box in ((0, 0, _HEIGHT, _WIDTH), (3, 5, 1, 2), (10, 17, 11, 17)):
    y, x, height, width = box
    if kind == 'jpeg':  # whose parts have other colours at their borders
      expected = tf.image.decode_and_crop_jpeg(encoded, box, channels=3)
    else:
      expected = decoding.decode(encoded, 10**6)[y:y + height, x:x + width]
    np.testing.assert_array_equal(
        decoding.decode_part(encoded, tf.constant(box)), expected)


@pytest.mark.parametrize('subsampling', [0, 1, 2])
def test_a_part_may_begin_where_its_first_block_does(subsampling):
  """As pipelines have it: no pixel is another, but more come before them."""
  encoded = tf.constant(_encode('JPEG', subsampling=subsampling))
  y, x, height, width = 3, 25, 17, 9
  before = x % decoding.BLOCK
  assert before and x > before
  np.testing.assert_array_equal(
      decoding.decode_part(
          encoded, tf.constant([y, x - before, height, width + before])
      )[:, before:],
      decoding.decode_part(encoded, tf.constant([y, x, height, width])))


def test_only_the_first_frame_of_a_gif_is_decoded():
  cut, size = image_header.check(tf.constant(_FILES['animation']), 10**6)
  np.testing.assert_array_equal(size, [_HEIGHT, _WIDTH])
  with Image.open(io.BytesIO(_FILES['animation'])) as whole:
    assert whole.n_frames == 6
    with Image.open(io.BytesIO(cut.numpy())) as first:
      assert first.n_frames == 1
      np.testing.assert_array_equal(
          first.convert('RGB'), whole.convert('RGB'))


def test_a_frame_larger_than_its_canvas_counts():
  """The canvas is stated; the frame is what would be allocated."""
  contents = bytearray(_FILES['gif'])
  place = contents.index(b',' + bytes(4) + bytes((_WIDTH, 0, _HEIGHT, 0)))
  contents[place + 5:place + 9] = b'\xff\xff\xff\xff'
  with pytest.raises(tf.errors.InvalidArgumentError, match='4294836225'):
    decoding.decode(tf.constant(bytes(contents)), 2**26)


@pytest.mark.parametrize('contents', [
    b'', b'x', b'GIF8', _FILES['gif'][:200], _FILES['png'][:18],
    b'GIF89a' + bytes(200), b'II*\0' + bytes(40)])
def test_what_is_no_image_fails_as_one(contents):
  with pytest.raises(tf.errors.InvalidArgumentError):
    decoding.decode(tf.constant(contents), 2**26)

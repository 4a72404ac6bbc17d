"""Image files as a viewer would show them: Pillow, to 8-bit RGB."""

from collections.abc import Iterable
from collections.abc import Iterator
import concurrent.futures
import contextlib
import io
import os
import threading
from typing import NamedTuple

from absl import logging
import numpy as np
from PIL import Image
from PIL import ImageOps

_ORIENTATION = 0x0112  # the EXIF tag
_PNG_END = b'IEND\xaeB`\x82'  # the last chunk with its checksum
# Some of what Pillow opens runs other programs, or is no picture.
_FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'DIB', 'WEBP', 'TIFF', 'PPM',
            'JPEG2000', 'ICO', 'TGA')
_THREADS = 16
_BYTES_PER_PIXEL, _EXTRA_BYTES = 4, 2**20
# Pillow holds four bytes of each, and turning or mixing makes copies.
_PIXELS_AT_ONCE = 2**25
_room = threading.Condition()
_in_use: list[int] = []  # pixels of each image that is being decoded


class Photo(NamedTuple):
  """What a full decode of a file found."""
  height: int
  width: int
  plain: bool  # TensorFlow's decoders show it as a viewer would


class TooLargeError(ValueError):
  """An image of more pixels, or a file of more bytes, than is allowed."""


@contextlib.contextmanager
def open_image(
    file: str | io.BytesIO, max_pixels: int) -> Iterator[Image.Image]:
  """Opens a file; while it is open, its pixels count as being decoded.

  Over all threads at most `_PIXELS_AT_ONCE` pixels are decoded at a time, or
  else one image, so memory does not grow with the number of threads.

  Args:
    file: its path, or its contents.
    max_pixels: of the image; the file may have four bytes for each, and as
      much again as text and the like do at most.

  Raises:
    TooLargeError: there are more; nothing was decoded.
  """
  num_bytes = (file.getbuffer().nbytes if isinstance(file, io.BytesIO)
               else os.path.getsize(file))
  if num_bytes > _BYTES_PER_PIXEL * max_pixels + _EXTRA_BYTES:
    raise TooLargeError(file)
  with Image.open(file, formats=_FORMATS) as image:
    pixels = image.width * image.height
    if pixels > max_pixels:
      raise TooLargeError(file)
    with _room:
      _room.wait_for(lambda: not _in_use or (
          sum(_in_use) + pixels <= _PIXELS_AT_ONCE))
      _in_use.append(pixels)
    try:
      yield image
    finally:
      with _room:
        _in_use.remove(pixels)
        _room.notify_all()


def examine(path: str, max_pixels: int) -> Photo:
  """Decodes a file fully.

  Raises:
    TooLargeError: it has more pixels than `max_pixels`.
    Exception: of many types, if it cannot be decoded.
  """
  with open_image(path, max_pixels) as image:
    plain = _is_plain(image) and (image.format != 'PNG' or is_whole_png(path))
    width, height = to_rgb(image).size
  return Photo(height, width, plain)


def _is_plain(image: Image.Image) -> bool:
  """A JPEG or PNG that needs no more than decoding to three channels."""
  modes = {'JPEG': ('RGB', 'L'), 'PNG': ('RGB', 'L', 'P')}
  return (image.mode in modes.get(image.format, ())
          and 'transparency' not in image.info
          and image.getexif().get(_ORIENTATION, 1) == 1)


def is_whole_png(path: str) -> bool:
  """Whether a PNG ends as it should and all its checksums are right.

  Pillow shows one where this is not so; TensorFlow's decoder refuses it.
  """
  with open(path, 'rb') as file:
    contents = file.read()
  if not contents.endswith(_PNG_END):
    return False
  try:
    with Image.open(io.BytesIO(contents)) as image:
      image.verify()
  except (OSError, SyntaxError):  # Pillow's word for a broken chunk
    return False
  return True


def to_rgb(image: Image.Image) -> Image.Image:
  """Turned upright, first frame only, transparency shown on white."""
  image.seek(0)
  image = ImageOps.exif_transpose(image)
  if image.mode == 'F' or image.mode.startswith('I'):
    return Image.fromarray(_to_bytes(np.asarray(image))).convert('RGB')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    background = Image.new('RGBA', image.size, 'white')
    return Image.alpha_composite(background, image).convert('RGB')
  return image.convert('RGB')


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
  """Grey levels of 16 or 32 bits, or fractions, to uint8."""
  largest = pixels.max()
  if largest <= 1 and pixels.dtype.kind == 'f':
    pixels = pixels * 255.0
  elif largest > 255 or pixels.dtype == np.uint16:
    pixels = pixels / 257.0
  return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def read_rgb(file: str | io.BytesIO, max_pixels: int) -> np.ndarray:
  """A file's pixels, uint8 [H, W, 3]; raises as `examine`."""
  with open_image(file, max_pixels) as image:
    return np.asarray(to_rgb(image))


def read_all(
    files: Iterable[str | io.BytesIO], max_pixels: int) -> np.ndarray | None:
  """Pixels of files of one size, uint8 [N, H, W, 3].

  Args:
    files: paths, or contents.
    max_pixels: as for `open_image`.

  Returns:
    None where a file has rotted since it was examined.
  """
  try:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      return np.stack(list(pool.map(
          lambda file: read_rgb(file, max_pixels), files)))
  except Exception as error:  # pylint: disable=broad-except
    # Pillow's decoders raise whatever they like on damaged files.
    logging.warning('An image cannot be read any more (%s).', error)
    return None


def read_as_png(path: str, max_pixels: int) -> bytes:
  """A file's pixels as a PNG that every decoder reads alike."""
  buffer = io.BytesIO()
  with open_image(path, max_pixels) as image:
    to_rgb(image).save(buffer, 'PNG', compress_level=1)
  return buffer.getvalue()

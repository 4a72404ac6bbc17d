"""Image files as a viewer would show them: Pillow, to 8-bit RGB."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL import ImageOps

_ORIENTATION = 0x0112  # the EXIF tag
_PNG_END = b'IEND\xaeB`\x82'  # the last chunk with its checksum


class Photo(NamedTuple):
  """What a full decode of a file found."""
  height: int
  width: int
  plain: bool  # TensorFlow's decoders show it as a viewer would


def examine(path: str) -> Photo:
  """Decodes a file fully.

  Raises:
    Exception: of many types, if it cannot be decoded.
  """
  with Image.open(path) as image:
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


def read_rgb(path: str) -> np.ndarray:
  """A file's pixels, uint8 [H, W, 3]."""
  with Image.open(path) as image:
    return np.asarray(to_rgb(image))


def read_as_png(path: str) -> bytes:
  """A file's pixels as a PNG that every decoder reads alike."""
  buffer = io.BytesIO()
  with Image.open(path) as image:
    to_rgb(image).save(buffer, 'PNG', compress_level=1)
  return buffer.getvalue()

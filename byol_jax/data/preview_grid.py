"""A picture of originals and the views that training would see of them."""

import functools
import importlib.util
import pathlib
from typing import Any

from etils import epath
import ml_collections
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont
import tensorflow as tf

from byol_jax import files
from byol_jax.data import pipeline
from byol_jax.data import unreadable
from byol_jax.data.examples import Source

# In pixels: of an image at most, between them, and of a line of text.
_CELL, _GAP, _LINE = 152, 8, 20
_FONT_SIZE = 12


def create_preview(
    source: Source, config: ml_collections.ConfigDict, *,
    num_images: int = 8) -> np.ndarray:
  """Originals above their first and second views.

  Args:
    source: examples.
    config: a run's; its batch size does not matter.
    num_images: columns, the first examples of the run's order.

  Returns:
    uint8 [H, W, 3], for `write_png` or a TensorBoard image.
  """
  config = config.copy_and_resolve_references()
  config.batch_size = num_images
  watch = unreadable.Watch(source, config.max_bad_image_share)
  return draw_batch(source, next(watch.batches(functools.partial(
      pipeline.create_train_dataset, source, config, total_steps=1))))


def draw_batch(source: Source, batch: dict[str, Any]) -> np.ndarray:
  """The same of a batch that is there.

  Args:
    source: of the batch.
    batch: `views`, a pair of float32 [b, S, S, 3] in [0, 1]; `index`,
      int32 [b]; `label`, int32 [b], if there are labels.

  Returns:
    uint8 [H, W, 3].
  """
  index = np.asarray(batch['index'], np.int64)
  rows = [[np.asarray(pipeline.read_image(source, i)) for i in index],
          *batch['views']]
  titles = [_label(batch, source, row) for row in range(len(index))]
  return _draw(rows, ('original', 'view 1', 'view 2'), titles)


def write_png(image: np.ndarray, path: str) -> None:
  """Writes uint8 [H, W, 3]; makes the folder if need be.

  Raises:
    OSError: the file cannot be written.
  """
  epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
  files.write_whole(path, tf.io.encode_png(image).numpy())


def _label(batch, source: Source, row: int) -> str:
  if not source.has_labels:
    return f'no. {batch["index"][row]}'
  label = batch['label'][row]
  if not source.class_names:
    return f'{label}'
  if source.is_multi_label:
    return ', '.join(np.asarray(source.class_names)[label == 1])
  return source.class_names[label]


def _draw(
    rows: list[list[np.ndarray]], row_titles: tuple[str, ...],
    column_titles: list[str]) -> np.ndarray:
  """Images uint8 [h, w, 3], or float32 in [0, 1], under and beside titles."""
  step, font = _CELL + _GAP, _font()
  picture = Image.new('RGB', (
      _LINE + len(column_titles) * step, _LINE + len(rows) * step), 'white')
  for column, title in enumerate(column_titles):
    picture.paste(_line(title, font), (_LINE + column * step, 0))
  for row, (images, title) in enumerate(zip(rows, row_titles, strict=True)):
    top = _LINE + row * step
    picture.paste(
        _line(title, font).transpose(Image.Transpose.ROTATE_90), (0, top))
    for column, image in enumerate(images):
      shown = _fit(image)
      picture.paste(shown, (
          _LINE + column * step + (_CELL - shown.width) // 2,
          top + (_CELL - shown.height) // 2))
  return np.array(picture)


def _fit(image: np.ndarray) -> Image.Image:
  """As large as a cell allows; its pixels as they are, if that is larger."""
  if image.dtype != np.uint8:
    image = np.uint8(np.round(np.clip(np.nan_to_num(image), 0, 1) * 255.0))
  height, width = image.shape[:2]
  scale = _CELL / max(height, width)
  return Image.fromarray(image).resize(
      (max(1, round(width * scale)), max(1, round(height * scale))),
      Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)


def _line(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
  """Text on white, as wide as a cell, and as much of it as that holds."""
  text = ' '.join(text.split())
  if font.getlength(text) > _CELL:
    while text and font.getlength(f'{text}…') > _CELL:
      text = text[:-1]
    text += '…'
  line = Image.new('RGB', (_CELL, _LINE), 'white')
  ImageDraw.Draw(line).text(
      (_CELL // 2, _LINE // 2), text, 'black', font, anchor='mm')
  return line


def _font() -> ImageFont.FreeTypeFont:
  """Matplotlib's, of more alphabets than Pillow's own; imports neither."""
  package = importlib.util.find_spec('matplotlib')
  if package and package.origin:
    path = (pathlib.Path(package.origin).parent
            / 'mpl-data/fonts/ttf/DejaVuSans.ttf')
    if path.exists():
      return ImageFont.truetype(str(path), _FONT_SIZE)
  return ImageFont.load_default(_FONT_SIZE)

"""A picture of originals and the views that training would see of them."""

import functools
import io
from typing import Any

from etils import epath
from matplotlib import figure
import ml_collections
import numpy as np
import tensorflow as tf

from byol_jax import files
from byol_jax.data import pipeline
from byol_jax.data import unreadable
from byol_jax.data.examples import Source

_CELL_INCHES = 1.6
_DPI = 100


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
  return source.class_names[label] if source.class_names else f'{label}'


def _draw(
    rows: list[list[np.ndarray]], row_titles: tuple[str, ...],
    column_titles: list[str]) -> np.ndarray:
  """Draws without pyplot, which keeps figures and picks a display."""
  picture = figure.Figure(
      (len(column_titles) * _CELL_INCHES, len(rows) * _CELL_INCHES + 0.3),
      dpi=_DPI, layout='constrained')
  axes = picture.subplots(
      len(rows), len(column_titles), squeeze=False)
  for cells, images, row_title in zip(axes, rows, row_titles, strict=True):
    for cell, image in zip(cells, images, strict=True):
      cell.imshow(image, interpolation='nearest')
      cell.set_xticks([])
      cell.set_yticks([])
    cells[0].set_ylabel(row_title)
  for cell, title in zip(axes[0], column_titles, strict=True):
    cell.set_title(title[:24], fontsize=9)
  buffer = io.BytesIO()
  picture.savefig(buffer, format='rgba', dpi=_DPI)
  width, height = picture.canvas.get_width_height()
  pixels = np.frombuffer(buffer.getvalue(), np.uint8)
  return pixels.reshape(height, width, 4)[..., :3].copy()

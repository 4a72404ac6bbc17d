"""A few test images with their nearest neighbours in the train split."""

import numpy as np
from PIL import Image

from byol_jax.data import examples
from byol_jax.data import pipeline
from byol_jax.evaluation import features as features_lib
from byol_jax.evaluation import gallery
from byol_jax.evaluation import knn


def find(
    train_source: examples.Source, test_source: examples.Source | None,
    splits: features_lib.Splits, *, picture_size: int, num_queries: int = 8,
    k: int = 7,
) -> gallery.Gallery:
  """Finds the neighbours and fetches their pictures.

  Labels are left out where an example has several.

  Args:
    train_source: where `splits.train`, the bank, comes from.
    test_source: where `splits.test` comes from, of which queries are drawn
      evenly spaced, and of different classes where there are classes enough.
      None: from `train_source` too, and no image is its own neighbour.
    splits: the features of one encoder.
    picture_size: S, pixels; 96 if that is less.
    num_queries: Q, or less where `test` is smaller.
    k: K, or less where `train` is smaller.
  """
  train, test = splits.train, splits.test
  query_label, bank_label = (
      None if train_source.is_multi_label else split.label
      for split in (test, train))
  rows = _pick(len(test.index), query_label, num_queries)
  own = None if test_source else test.index[rows]
  cosine, found = _neighbors(test.embedding[rows], train, k, own)
  size = min(picture_size, 96)
  return gallery.Gallery(
      query=_fetch(test_source or train_source, test.index[rows], size),
      neighbor=_fetch(train_source, train.index[found], size),
      cosine=cosine,
      query_label=None if query_label is None else query_label[rows],
      neighbor_label=None if bank_label is None else bank_label[found],
      class_names=tuple(train_source.class_names or ()))


def _pick(
    num_examples: int, label: np.ndarray | None, count: int) -> np.ndarray:
  """Rows of the queries: of different classes if there are that many."""
  candidates = np.arange(num_examples)
  if label is not None:
    _, first = np.unique(label, return_index=True)
    if len(first) >= count:
      candidates = first
  spaced = np.linspace(0, len(candidates) - 1, min(count, len(candidates)))
  return candidates[spaced.astype(int)]


def _neighbors(
    queries: np.ndarray, train: features_lib.Features, k: int,
    own: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
  """Cosines and rows [Q, K], without the examples `own` [Q]."""
  if own is None:
    return knn.find_neighbors(queries, train.embedding, k)
  cosine, found = knn.find_neighbors(queries, train.embedding, k + 1)
  # Itself goes last, and falls off; among duplicates it need not be first.
  order = np.argsort(train.index[found] == own[:, None], axis=1, kind='stable')
  kept = order[:, :max(found.shape[1] - 1, 1)]
  return (np.take_along_axis(cosine, kept, axis=1),
          np.take_along_axis(found, kept, axis=1))


def _fetch(
    source: examples.Source, index: np.ndarray, size: int) -> np.ndarray:
  """Pictures u8[..., S, S, 3] of the examples `index`, which has any shape."""
  pictures = np.stack([
      _square(np.asarray(pipeline.read_image(source, i)), size)
      for i in index.ravel().tolist()])
  return pictures.reshape(*index.shape, *pictures.shape[1:])


def _square(image: np.ndarray, size: int) -> np.ndarray:
  """The central square of u8[H, W, C], as u8[S, S, 3]."""
  height, width, channels = image.shape
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  image = image[top:top + side, left:left + side]
  if channels == 1:
    image = np.repeat(image, 3, axis=-1)
  return np.asarray(Image.fromarray(image).resize(
      (size, size), Image.Resampling.BICUBIC))

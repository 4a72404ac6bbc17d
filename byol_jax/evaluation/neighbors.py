"""A few test images with their nearest neighbours in the train split."""

import dataclasses
import pathlib

import ml_collections
import numpy as np
import tensorflow as tf

from byol_jax.data import examples
from byol_jax.data import pipeline
from byol_jax.evaluation import features as features_lib
from byol_jax.evaluation import knn

_FILE = 'neighbors.npz'


@dataclasses.dataclass(frozen=True)
class Neighbors:
  """Pictures of queries and of what is nearest to them.

  Attributes:
    query: u8[Q, S, S, 3].
    neighbor: u8[Q, K, S, S, 3], the nearest first.
    cosine: f32[Q, K], of the embeddings.
    query_label: i32[Q], or None.
    neighbor_label: i32[Q, K], or None.
    class_names: of the labels; empty where there are none.
  """

  query: np.ndarray
  neighbor: np.ndarray
  cosine: np.ndarray
  query_label: np.ndarray | None
  neighbor_label: np.ndarray | None
  class_names: tuple[str, ...]

  def write(self, workdir: str | pathlib.Path) -> None:
    """Writes WORKDIR/neighbors.npz, for the report."""
    columns = dataclasses.asdict(self)
    columns['class_names'] = np.asarray(self.class_names, np.str_)
    np.savez_compressed(
        pathlib.Path(workdir) / _FILE,
        **{k: x for k, x in columns.items() if x is not None})


def read(workdir: str | pathlib.Path) -> Neighbors | None:
  """What `write` wrote, or None."""
  path = pathlib.Path(workdir) / _FILE
  if not path.exists():
    return None
  with np.load(path, allow_pickle=False) as columns:
    found = {k: columns[k] for k in columns.files}
  found['class_names'] = tuple(str(name) for name in found['class_names'])
  return Neighbors(**{
      field.name: found.get(field.name)
      for field in dataclasses.fields(Neighbors)})


def find(
    config: ml_collections.ConfigDict, train_source: examples.Source,
    test_source: examples.Source | None, train: features_lib.Features,
    test: features_lib.Features, *, num_queries: int = 8, k: int = 7,
) -> Neighbors:
  """Finds the neighbours and fetches their pictures.

  Args:
    config: of the evaluation.
    train_source: where `train` comes from.
    test_source: where `test` comes from; None: from `train_source` too, and
      no image is its own neighbour.
    train: the bank.
    test: what queries are drawn from, evenly spaced, and of different classes
      where there are labels and classes enough.
    num_queries: Q, or less where `test` is smaller.
    k: K, or less where `train` is smaller.
  """
  rows = _pick(test, num_queries)
  within = test_source is None
  cosine, found = knn.find_neighbors(
      test.embedding[rows], train.embedding, k + within)
  if within:
    cosine, found = cosine[:, 1:], found[:, 1:]
  pictures = _fetch(train_source, config, train.index[found])
  queries = _fetch(test_source or train_source, config, test.index[rows])
  return Neighbors(
      query=queries, neighbor=pictures, cosine=cosine,
      query_label=None if test.label is None else test.label[rows],
      neighbor_label=None if train.label is None else train.label[found],
      class_names=train_source.class_names or ())


def _pick(test: features_lib.Features, count: int) -> np.ndarray:
  """Rows of the queries: of different classes as far as there are any."""
  candidates = np.arange(len(test.index))
  if test.label is not None:
    _, first = np.unique(test.label, return_index=True)
    if len(first) >= count:
      candidates = first
  spaced = np.linspace(0, len(candidates) - 1, min(count, len(candidates)))
  return candidates[spaced.astype(int)]


def _fetch(
    source: examples.Source, config: ml_collections.ConfigDict,
    index: np.ndarray,
) -> np.ndarray:
  """Pictures u8[..., S, S, 3] of the examples `index`, which has any shape."""
  dataset = pipeline.create_eval_dataset(
      _subset(source, index.ravel()), config, batch_size=index.size)
  (batch,) = dataset.as_numpy_iterator()
  pictures = np.round(batch['image'] * 255).astype(np.uint8)
  return pictures.reshape(*index.shape, *pictures.shape[1:])


def _subset(source: examples.Source, index: np.ndarray) -> examples.Source:
  """The examples `index` of a source, as a source without labels."""
  if isinstance(source, examples.InMemorySource):
    return examples.InMemorySource(
        name=source.name, num_examples=len(index), images=source.images[index])

  def parse(record: tf.Tensor, row: tf.Tensor) -> dict[str, tf.Tensor]:
    return {'image': source.parse(record, tf.gather(index, row))['image']}

  return examples.EncodedSource(
      name=source.name, num_examples=len(index), parse=parse,
      read=lambda rows: source.read(index[rows].astype(np.int64)))

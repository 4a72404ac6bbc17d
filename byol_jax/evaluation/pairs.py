"""What the networks make of pairs of views: alignment, uniformity, spectra.

A fixed set of the pairs that training would see first, run through both
networks with their running statistics. Wang and Isola (2020) measure how near
the two views of an image stay (alignment) and how evenly images are spread
over the sphere (uniformity); BYOL has no term for the second, and where it
collapses the second is what goes.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from byol_jax.data import examples
from byol_jax.data import pipeline
from byol_jax.data import unreadable
from byol_jax.evaluation import diagnostics
from byol_jax.evaluation import features as features_lib
from byol_jax.networks import network as network_lib
from byol_jax.training import devices
from byol_jax.training import metrics as metrics_lib

_MAX_PAIRS = 1024
# Of the cosines' histograms, over [-1, 1].
_NUM_BINS = 50


def make_batches(
    source: examples.Source, config: ml_collections.ConfigDict
) -> Callable[[], Iterable[dict[str, np.ndarray]]]:
  """This process's share of the first pairs of a run's training stream.

  Whole batches of `config.evaluate_batch_size`, 1024 pairs at most, each of
  another image: those of the run's first positions, whatever its batch size.

  Returns:
    A function that begins anew at each call: batches of `image`
    f32[b, 2, S, S, 3] in [0, 1], `index` i32[b] and `mask` bool[b].
  """
  config = config.copy_and_resolve_references()
  # What a position of the run becomes does not depend on it.
  config.batch_size = config.evaluate_batch_size
  steps = max(1, _MAX_PAIRS // config.batch_size)
  count = min(_MAX_PAIRS, steps * config.batch_size, source.num_examples)
  create = functools.cache(functools.partial(
      pipeline.create_train_dataset, source, config,
      total_steps=-(-count // config.batch_size),
      process_index=jax.process_index(), process_count=jax.process_count()))
  watch = unreadable.Watch(source, config.max_bad_image_share)

  def batches() -> Iterator[dict[str, np.ndarray]]:
    for step, batch in enumerate(watch.read(create)):
      rows = len(batch['index'])
      first = step * config.batch_size + jax.process_index() * rows
      yield {
          'image': np.stack(batch['views'], axis=1), 'index': batch['index'],
          # An unreadable image's substitute is a pair of its own elsewhere.
          'mask': (first + np.arange(rows) < count) & (
              batch['index'] == batch.get('wanted', batch['index']))}

  return batches


def make_predict(network: network_lib.Network) -> devices.Predict:
  """Maps both networks over pairs, on this host's devices.

  Args:
    network: an unbound module.

  Returns:
    `predict({'online': variables, 'target': variables or None}, images
    f32[B, 2, H, W, C])`, a dictionary of `embedding`, `projection`,
    `prediction` and `target_projection`, f32[B, 2, D]. Without a target of its
    own, the online network is its own.
  """
  def predict(variables: Any, pairs: jax.Array) -> dict[str, jax.Array]:
    images = pairs.reshape(-1, *pairs.shape[2:])
    online = network.apply(variables['online'], images, train=False)
    target = online
    if variables['target'] is not None:
      target = network.apply(
          variables['target'], images, train=False, method='project')
    made = {
        'embedding': online.embedding, 'projection': online.projection,
        'prediction': online.prediction,
        'target_projection': target.projection}
    return jax.tree.map(lambda x: jnp.reshape(x, (-1, 2, x.shape[-1])), made)

  return devices.Predict(predict)


def square_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Of all rows of f[N, D] to all of f[M, D], once they have unit length.

  In [0, 4]: 2 - 2 cos. A row of zeros is not moved, so two of them are equal.

  Returns:
    f[N, M].
  """
  one, other = _unit(one), _unit(other)
  squares = np.sum(one**2, -1)[:, None] + np.sum(other**2, -1)[None]
  return np.clip(squares - 2 * one @ other.T, 0, 4)


def _unit(rows: np.ndarray) -> np.ndarray:
  norm = np.linalg.norm(rows, axis=-1, keepdims=True)
  return rows / np.maximum(norm, 1e-12)


def run(
    features: features_lib.Features
) -> Iterator[tuple[str, float | metrics_lib.Distribution]]:
  """Measures pairs; every figure is of view 1 against view 2.

  Args:
    features: of pairs, each output f32[N, 2, D].

  Yields:
    Of `embedding` and of `projection`:
    `pairs/*_alignment`, the mean square distance of positive pairs, 0 at best;
    `pairs/*_uniformity`, log mean exp(-2 d^2) over pairs of different images:
    0 where all are equal, near -4 where all are orthogonal;
    `pairs/*_positive_cosines` and `pairs/*_different_cosines`, shares of the
    pairs in 50 bins of [-1, 1];
    `pairs/*_spectrum`, see `diagnostics.spectrum`, of both views.
    Then means: `pairs/positive_cosine` and `pairs/different_cosine` of
    projections, `pairs/target_cosine` of a view's prediction with the target's
    projection of the other view, either way round. One image alone has no
    other to be compared with; what asks for that is left out.
  """
  for name in ('embedding', 'projection'):
    both = getattr(features, name)
    squares = square_distances(both[:, 0], both[:, 1])
    positive = np.diagonal(squares)
    different = squares[~np.eye(len(squares), dtype=bool)]
    yield f'pairs/{name}_alignment', float(positive.mean())
    yield f'pairs/{name}_positive_cosines', _histogram(positive)
    if different.size:
      yield f'pairs/{name}_uniformity', float(
          np.log(np.mean(np.exp(-2 * different))))
      yield f'pairs/{name}_different_cosines', _histogram(different)
    spectrum = diagnostics.spectrum(both.reshape(-1, both.shape[-1]))
    yield f'pairs/{name}_spectrum', metrics_lib.Distribution(
        spectrum, 0, len(spectrum))
  # The last are the projection's.
  yield 'pairs/positive_cosine', float(1 - positive.mean() / 2)
  if different.size:
    yield 'pairs/different_cosine', float(1 - different.mean() / 2)
  difference = (
      _unit(features.prediction) - _unit(features.target_projection[:, ::-1]))
  yield 'pairs/target_cosine', float(
      1 - np.mean(np.sum(difference**2, axis=-1)) / 2)


def _histogram(squares: np.ndarray) -> metrics_lib.Distribution:
  """Of the cosines that belong to square distances; shares sum to 1."""
  counts, _ = np.histogram(
      1 - squares / 2, bins=_NUM_BINS, range=(-1.0, 1.0))
  return metrics_lib.Distribution(counts / len(squares), -1.0, 1.0)

"""What a pretraining run looks at while it runs."""

from collections.abc import Callable
from collections.abc import Iterator
import functools
from typing import Any

import ml_collections

from byol_jax.data import examples
from byol_jax.evaluation import accuracy
from byol_jax.evaluation import diagnostics
from byol_jax.evaluation import features as features_lib
from byol_jax.evaluation import knn
from byol_jax.evaluation import pairs
from byol_jax.networks import network as network_lib
from byol_jax.training import metrics as metrics_lib
from byol_jax.training import state as state_lib


class Evaluator:
  """Evaluates the networks of a state; compiles once for all states."""

  def __init__(
      self, config: ml_collections.ConfigDict, network: network_lib.Network,
      train_source: examples.Source, test_source: examples.Source | None):
    """Without a test split or labels, only what needs neither is measured.

    Args:
      config: of the run.
      network: an unbound module.
      train_source: a sample of `config.knn.max_train_examples` of it is the
        kNN's bank, and its first pairs of views are looked at.
      test_source: what every figure is measured on; None: the same sample of
        `train_source`, and no kNN.
    """
    self._config = config
    self._sources = train_source, test_source
    self._encode = features_lib.make_predict(network)
    self._predict_all = features_lib.make_predict(
        network, ('embedding', 'projection', 'prediction', 'logits'))
    self._predict_pairs = pairs.make_predict(network)
    self._is_labelled = (
        test_source is not None
        and test_source.num_single_classes is not None
        and train_source.num_single_classes is not None)

  @functools.cached_property
  def _batches(self) -> tuple[features_lib.Batches, features_lib.Batches]:
    """Train and test; built once, read at each evaluation."""
    train_source, test_source = self._sources
    train = features_lib.make_batches(
        train_source, self._config, self._config.knn.max_train_examples)
    if test_source is None:
      return train, train
    return train, features_lib.make_batches(test_source, self._config)

  @functools.cached_property
  def _pair_batches(self) -> features_lib.Batches:
    return pairs.make_batches(self._sources[0], self._config)

  @functools.cached_property
  def _probe_batches(self) -> features_lib.Batches | None:
    """Test at the size of views, all that the probe knows, if another."""
    config = self._config
    if config.test_image_size in (None, config.image_size):
      return None
    return features_lib.make_batches(
        self._sources[1], config, image_size=config.image_size)

  def run(
      self, state: state_lib.TrainState,
      check: Callable[[], None] = lambda: None,
  ) -> Iterator[tuple[str, float | metrics_lib.Distribution]]:
    """Evaluates one state.

    Args:
      state: of the run, replicated or not.
      check: called before each batch; leaves off by raising.

    Yields:
      `knn/test_top1`, `online_probe/test_top1`,
      `diagnostics/embedding_rank`, `pairs/projection_alignment` and so on;
      among them are distributions.
    """
    variables = features_lib.online_variables(state)
    train_batches, test_batches = self._batches
    test = features_lib.extract_features(
        self._predict_all, variables, _checked(test_batches(), check))
    yield from diagnostics.run(test)
    yield from pairs.run(features_lib.extract_features(
        self._predict_pairs,
        {'online': variables, 'target': features_lib.target_variables(state)},
        _checked(self._pair_batches(), check)))
    if self._is_labelled:
      train = features_lib.extract_features(
          self._encode, variables, _checked(train_batches(), check))
      yield from knn.run(
          train, test, k=self._config.knn.k,
          temperature=self._config.knn.temperature,
          num_classes=self._sources[0].num_classes)
      if test.logits is not None:
        if self._probe_batches is not None:
          test = features_lib.extract_features(
              self._predict_all, variables,
              _checked(self._probe_batches(), check))
        hits = accuracy.count_hits(test.logits, test.label, count=1)
        yield 'online_probe/test_top1', int(hits) / len(test.label)


def _checked(
    batches: Iterator[dict[str, Any]], check: Callable[[], None]
) -> Iterator[dict[str, Any]]:
  for batch in batches:
    check()
    yield batch

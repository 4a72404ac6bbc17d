"""Weighted nearest neighbours in the train split; see `evaluation/knn.py`."""

from collections.abc import Iterator
from typing import Any

import ml_collections

from byol_jax.evaluation import knn
from byol_jax.evaluation import subject as subject_lib
from byol_jax.evaluation.protocols import needs


def headline(config: ml_collections.ConfigDict) -> str:
  """The metric that stands for the protocol."""
  del config
  return 'knn/test_top1'


def check(
    config: ml_collections.ConfigDict, sources: subject_lib.Sources) -> None:
  """Raises ConfigError for what cannot run."""
  needs.single_labels('knn', config, sources)


def settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What its figures depend on."""
  return {'k': config.knn.k, 'temperature': config.knn.temperature}


def describe(
    config: ml_collections.ConfigDict, metrics: dict[str, float]) -> str:
  """The settings to name beside its figures."""
  del metrics
  return f'kNN, k={config.knn.k}, temperature={config.knn.temperature:g}'


def run(subject: subject_lib.Subject) -> Iterator[tuple[str, float]]:
  """Yields `knn/test_top1` and, of more than five classes, `test_top5`."""
  yield from knn.run(
      subject.splits.train, subject.splits.test, k=subject.config.knn.k,
      temperature=subject.config.knn.temperature,
      num_classes=subject.sources.train.num_classes)

"""Logistic regression on the frozen encoder's features (paper, D.2)."""

from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax.evaluation import features as features_lib
from byol_jax.evaluation import logistic
from byol_jax.evaluation import selection
from byol_jax.evaluation import subject as subject_lib
from byol_jax.evaluation.protocols import needs


def headline(config: ml_collections.ConfigDict) -> str:
  """The dataset's own metric."""
  return f'logistic/test_{config.metric}'


def check(
    config: ml_collections.ConfigDict, sources: subject_lib.Sources) -> None:
  """Raises ConfigError for what cannot run."""
  needs.labels('logistic', config, sources)
  needs.held_out_share(
      'logistic', config, has_choice=True,
      num_examples=sources.train.num_examples)
  limits = config.logistic.l2_range
  if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
    raise config_lib.ConfigError(
        f'config.logistic.l2_range is {limits}, expected two positive '
        'numbers, rising')


def settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What its figures depend on."""
  return config.logistic.to_dict() | {
      'metric': config.metric, 'seed': config.seed}


def describe(
    config: ml_collections.ConfigDict, metrics: dict[str, float]) -> str:
  """The settings to name beside its figures."""
  return (
      f'logistic regression, best of {config.logistic.num_values} L2 '
      f'strengths: {metrics["logistic/l2"]:.2g}')


def run(subject: subject_lib.Subject) -> Iterator[tuple[str, float]]:
  """Yields what `logistic.run` does."""
  config = subject.config
  settings = config.logistic
  train, valid = selection.separate(
      subject.splits, settings.held_out_share, config.seed)
  low, high = settings.l2_range
  yield from logistic.run(
      *(_split(features) for features in (train, valid, subject.splits.test)),
      num_classes=subject.sources.train.num_classes, metric=config.metric,
      strengths=np.geomspace(high, low, settings.num_values).tolist(),
      max_iterations=settings.max_iterations, tolerance=settings.tolerance,
      progress=subject.open_progress('logistic'))


def _split(features: features_lib.Features) -> logistic.Split:
  return logistic.Split(features.embedding, features.label)

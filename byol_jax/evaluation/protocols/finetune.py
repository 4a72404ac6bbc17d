"""Fine-tuning on all labels of any dataset (paper, appendix D.3)."""

from collections.abc import Iterator
import itertools
from typing import Any

import ml_collections
import numpy as np

from byol_jax.data import joined
from byol_jax.evaluation import accuracy
from byol_jax.evaluation import classifier as classifier_lib
from byol_jax.evaluation import selection
from byol_jax.evaluation import subject as subject_lib
from byol_jax.evaluation.protocols import needs


def headline(config: ml_collections.ConfigDict) -> str:
  """The dataset's own metric."""
  return f'finetune/test_{config.metric}'


def check(
    config: ml_collections.ConfigDict, sources: subject_lib.Sources) -> None:
  """Raises ConfigError for what cannot run."""
  settings = config.finetune
  needs.labels('finetune', config, sources)
  needs.not_empty('finetune', config, ('learning_rates', 'weight_decays'))
  needs.held_out_share(
      'finetune', config, has_choice=len(settings.learning_rates) * len(
          settings.weight_decays) > 1,
      num_examples=sources.train.num_examples)
  needs.batch('finetune', config, sources.train.num_examples)


def settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What its figures depend on."""
  return config.finetune.to_dict() | {
      'metric': config.metric, 'seed': config.seed}


def describe(
    config: ml_collections.ConfigDict, metrics: dict[str, float]) -> str:
  """The settings to name beside its figures."""
  return (
      f'fine-tuned, {config.finetune.num_steps} steps of '
      f'{config.finetune.batch_size}, learning rate '
      f'{metrics["finetune/learning_rate"]:g}, weight decay '
      f'{metrics["finetune/weight_decay"]:g}')


def batch_norm_momentum(steps_per_epoch: float) -> float:
  """Weight of the old running statistics: max(1 - 10 / s, 0.9), D.3."""
  return max(1 - 10 / steps_per_epoch, 0.9)


def run(subject: subject_lib.Subject) -> Iterator[tuple[str, float]]:
  """Sweeps, chooses on validation, and fits train and validation together.

  Yields:
    `finetune/test_METRIC`, the dataset's; `finetune/learning_rate` and
    `finetune/weight_decay`, the chosen ones.
  """
  config, sources = subject.config, subject.sources
  settings = config.finetune
  classifier = classifier_lib.Classifier(
      subject, momentum=settings.momentum,
      batch_norm_momentum=batch_norm_momentum(
          sources.train.num_examples / settings.batch_size))
  progress = subject.open_progress('finetune')
  everything = np.arange(sources.train.num_examples)
  valid = None if sources.valid is not None else selection.hold_out(
      everything, settings.held_out_share, config.seed)
  fitted = None if valid is None else np.setdiff1d(everything, valid)

  def fit(choice, source, index, what):
    rate, decay = choice
    name = f'{what}, learning rate {rate:g}, weight decay {decay:g}'
    return classifier.fit(
        source, index, batch_size=settings.batch_size,
        total_steps=settings.num_steps, learning_rate=rate,
        weight_decay=decay / rate, what=name,
        directory=progress.place(f'{what}_rate{rate:g}_decay{decay:g}'))

  def measure(choice) -> float:
    variables = fit(choice, sources.train, fitted, 'sweep')
    return accuracy.METRICS[config.metric](*classifier.score(
        variables, sources.valid or sources.train, valid))

  grid = list(itertools.product(
      settings.learning_rates, settings.weight_decays))
  best = selection.choose(grid, measure, progress)
  both = [s for s in (sources.train, sources.valid) if s is not None]
  variables = fit(best, joined.join(both), None, 'final')
  yield headline(config), accuracy.METRICS[config.metric](
      *classifier.score(variables, sources.test))
  yield 'finetune/learning_rate', float(best[0])
  yield 'finetune/weight_decay', float(best[1])

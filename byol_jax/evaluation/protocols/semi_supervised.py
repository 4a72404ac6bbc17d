"""Fine-tuning on a share of the labels (paper, section 4.2 and C.2)."""

from collections.abc import Iterator
import functools
import itertools
import math
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax.data import examples
from byol_jax.evaluation import accuracy
from byol_jax.evaluation import classifier as classifier_lib
from byol_jax.evaluation import label_subset
from byol_jax.evaluation import selection
from byol_jax.evaluation import subject as subject_lib
from byol_jax.evaluation.protocols import needs


def headline(config: ml_collections.ConfigDict) -> str:
  """The metric that stands for the protocol."""
  return f'semi_supervised/{_name(config.semi_supervised.shares[0])}_test_top1'


def _name(share: float) -> str:
  return f'{100 * share:g}pct'


def check(
    config: ml_collections.ConfigDict, sources: subject_lib.Sources) -> None:
  """Raises ConfigError for what cannot run."""
  settings = config.semi_supervised
  needs.single_labels('semi_supervised', config, sources)
  needs.not_empty('semi_supervised', config, (
      'shares', 'num_epochs', 'learning_rates'))
  if not all(0 < share <= 1 for share in settings.shares):
    raise config_lib.ConfigError(
        f'config.semi_supervised.shares is {settings.shares}, expected each '
        'in (0, 1]')
  # Who has no label is left to choose on, so that fits have their examples.
  needs.held_out_share(
      'semi_supervised', config, has_choice=_has_choice(settings))
  needs.devices('semi_supervised', config)
  label_subset.check(settings, sources.train)
  if not settings.subsets and 1 in settings.shares:
    _check_rest(config, settings.shares.index(1), 0)


def _has_choice(settings: ml_collections.ConfigDict) -> bool:
  return len(settings.num_epochs) * len(settings.learning_rates) > 1


def _check_rest(
    config: ml_collections.ConfigDict, number: int, num_left: int) -> None:
  """Raises ConfigError if a share leaves nothing to choose settings on."""
  settings = config.semi_supervised
  if num_left or config.valid_split or not _has_choice(settings):
    return
  field = 'subsets' if settings.subsets else 'shares'
  raise config_lib.ConfigError(
      f'config.semi_supervised.{field} has {settings[field][number]}: of '
      f'{config.train_split!r} nothing is left to choose on; label fewer or '
      'give a config.valid_split')


def settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What its figures depend on."""
  return config.semi_supervised.to_dict() | {'seed': config.seed}


def describe(
    config: ml_collections.ConfigDict, metrics: dict[str, float]) -> str:
  """The settings to name beside its figures."""
  settings = config.semi_supervised
  if settings.subsets:
    labels = 'the labels listed in ' + ' and '.join(
        pathlib.PurePath(path).name for path in settings.subsets)
  else:
    shares = ' and '.join(f'{100 * share:.4g}' for share in settings.shares)
    labels = f'{shares} % of labels'
  return (
      f'fine-tuned on {labels}, best of {len(settings.learning_rates)} '
      f'learning rates and {len(settings.num_epochs)} lengths')


def run(subject: subject_lib.Subject) -> Iterator[tuple[str, float]]:
  """Fine-tunes for every learning rate and length; measures the chosen one.

  Yields:
    For a share of 1 %: `semi_supervised/1pct_test_top1`, of more than five
    classes `1pct_test_top5`, the chosen `1pct_learning_rate` and
    `1pct_num_epochs`, `1pct_num_labels` and `1pct_batch_size`, no more than
    these; likewise for the others.
  """
  config, train = subject.config, subject.sources.train
  settings = config.semi_supervised
  classifier = classifier_lib.Classifier(subject, momentum=settings.momentum)
  labels = examples.read_labels(train)
  for number, share in enumerate(settings.shares):
    name = _name(share)
    subset = label_subset.choose(
        train, labels, share, seed=config.seed,
        path=settings.subsets[number] if settings.subsets else None)
    valid = None
    if subject.sources.valid is None:
      rest = np.setdiff1d(np.arange(len(labels)), subset)
      valid = selection.hold_out(rest, settings.held_out_share, config.seed)
      _check_rest(config, number, len(valid))
    found = subject.open_progress(f'semi_supervised_{name}').keep(
        'figures', functools.partial(
            _fine_tune, subject, classifier, subset, valid, name))
    for key, value in found.items():
      yield f'semi_supervised/{name}_{key}', value


def _fine_tune(
    subject: subject_lib.Subject, classifier: classifier_lib.Classifier,
    subset: np.ndarray, valid: np.ndarray | None, name: str,
) -> Iterator[tuple[str, float]]:
  """Of one subset, chosen on `valid` rows of train, or the valid split."""
  settings, sources = subject.config.semi_supervised, subject.sources
  progress = subject.open_progress(f'semi_supervised_{name}')
  batch_size = min(
      settings.batch_size,
      max(len(subset) // jax.device_count(), 1) * jax.device_count())

  def fit(rate: float, num_epochs: int) -> dict[str, Any]:
    what = f'{name}, learning rate {rate:g}, {num_epochs} epochs'
    return classifier.fit(
        sources.train, subset, batch_size=batch_size,
        total_steps=math.ceil(num_epochs * len(subset) / batch_size),
        learning_rate=rate, what=what,
        directory=progress.place(f'rate{rate:g}_epochs{num_epochs}'))

  grid = list(itertools.product(
      settings.learning_rates, settings.num_epochs))

  def measure(variables: dict[str, Any]) -> float:
    return accuracy.METRICS['top1'](*classifier.score(
        variables, sources.valid or sources.train, valid))

  best, variables = selection.choose_fit(
      grid, lambda choice: fit(*choice), measure, progress)
  scores, label = classifier.score(variables, sources.test)
  for count in accuracy.top_counts(sources.train.num_classes):
    hits = accuracy.count_hits(scores, label, count=count)
    yield f'test_top{count}', int(hits) / len(label)
  yield 'learning_rate', float(best[0])
  yield 'num_epochs', float(best[1])
  yield 'num_labels', float(len(subset))
  yield 'batch_size', float(batch_size)

"""Linear classification of the frozen encoder (paper, appendix C.1)."""

from collections.abc import Iterator
import dataclasses
import functools
from typing import Any

import jax
import ml_collections
import numpy as np

from byol_jax.data import pipeline
from byol_jax.data import unreadable
from byol_jax.evaluation import features as features_lib
from byol_jax.evaluation import linear
from byol_jax.evaluation import selection
from byol_jax.evaluation import subject as subject_lib
from byol_jax.evaluation.protocols import needs


def headline(config: ml_collections.ConfigDict) -> str:
  """The metric that stands for the protocol."""
  del config
  return 'linear/test_top1'


def check(
    config: ml_collections.ConfigDict, sources: subject_lib.Sources) -> None:
  """Raises ConfigError for what cannot run."""
  needs.single_labels('linear', config, sources)
  needs.not_empty('linear', config, ('base_learning_rates',))
  needs.held_out_share(
      'linear', config, has_choice=len(config.linear.base_learning_rates) > 1,
      num_examples=sources.train.num_examples)
  if config.linear.augment:
    needs.batch('linear', config, sources.train.num_examples)


def settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What its figures depend on."""
  return config.linear.to_dict() | {
      'features': _kind(config), 'seed': config.seed}


def _kind(config: ml_collections.ConfigDict) -> str:
  return 'augmented' if config.linear.augment else 'standardized'


def describe(
    config: ml_collections.ConfigDict, metrics: dict[str, float]) -> str:
  """The settings to name beside its figures."""
  rate = metrics['linear/base_learning_rate']
  return (
      f'linear, {config.linear.num_epochs} epochs, batch '
      f'{config.linear.batch_size}, base learning rate {rate:g}, '
      f'{_kind(config)} features')


def run(subject: subject_lib.Subject) -> Iterator[tuple[str, float]]:
  """Trains a head for each learning rate; measures the chosen one.

  Yields:
    See `linear.report`.
  """
  settings = subject.config.linear
  rates = tuple(settings.base_learning_rates)
  splits, train = subject.splits, subject.splits.train
  if not settings.augment:
    splits = _standardized(splits)
  fitted, valid = (
      selection.separate(splits, settings.held_out_share, subject.config.seed)
      if len(rates) > 1 else (splits.train, None))
  held_out = np.setdiff1d(train.index, fitted.index)
  if settings.augment:
    heads = _train_on_images(subject, held_out, rates)
  else:
    heads = linear.train_on_features(
        fitted.embedding, fitted.label,
        np.ones(len(fitted.label), np.float32),
        num_classes=subject.sources.train.num_classes,
        base_learning_rates=rates, num_epochs=settings.num_epochs,
        batch_size=settings.batch_size, momentum=settings.momentum,
        seed=subject.config.seed)
  yield from linear.report(
      heads, linear.choose(heads, valid), splits.test,
      base_learning_rates=rates,
      num_classes=subject.sources.train.num_classes)


def _train_on_images(
    subject: subject_lib.Subject, held_out: np.ndarray,
    rates: tuple[float, ...]) -> linear.Heads:
  config, source = subject.config, subject.sources.train
  settings = config.linear
  total_steps = (
      settings.num_epochs * source.num_examples // settings.batch_size)
  watch = unreadable.Watch(source, config.max_bad_image_share)

  def make_batches(first: int) -> Iterator[dict[str, np.ndarray]]:
    return watch.batches(functools.partial(
        pipeline.create_labelled_dataset, source, config,
        batch_size=settings.batch_size, total_steps=total_steps,
        seed=config.seed, process_index=jax.process_index(),
        process_count=jax.process_count()), first)

  trainer = linear.ImageTrainer(
      lambda variables, images: subject.network.apply(
          variables, images, train=False, method='encode'),
      total_steps=total_steps, base_learning_rates=rates,
      batch_size=settings.batch_size, momentum=settings.momentum)
  return trainer.train(
      subject.variables, make_batches, held_out=held_out,
      embedding_size=subject.embedding_size,
      num_classes=source.num_classes, seed=config.seed,
      directory=subject.open_progress('linear').place('heads'))


def _standardized(splits: features_lib.Splits) -> features_lib.Splits:
  """All splits, by the train split's mean and deviation."""
  names = [f.name for f in dataclasses.fields(splits)
           if getattr(splits, f.name) is not None]
  found = linear.standardize(
      splits.train.embedding,
      *(getattr(splits, name).embedding for name in names))[1:]
  return features_lib.Splits(**{
      name: dataclasses.replace(getattr(splits, name), embedding=embedding)
      for name, embedding in zip(names, found, strict=True)})

"""The protocols: what each asks of the data, and what it yields.

A protocol takes the features of both splits, extracted once for all of them,
and yields (name, value). Its settings are what makes a figure comparable with
another.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
from typing import Any

import jax
import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax.data import examples
from byol_jax.data import pipeline
from byol_jax.evaluation import features as features_lib
from byol_jax.evaluation import knn
from byol_jax.evaluation import linear
from byol_jax.networks import network as network_lib

PROTOCOLS = ('knn', 'linear')

Batches = Callable[[], Iterator[dict[str, np.ndarray]]]


def check(
    protocols: Iterable[str], config: ml_collections.ConfigDict,
    train_source: examples.Source, test_source: examples.Source | None,
) -> None:
  """Raises ConfigError, before anything is compiled, for what cannot run."""
  for protocol in protocols:
    if protocol not in PROTOCOLS:
      raise config_lib.ConfigError(
          f'unknown protocol {protocol!r}, expected '
          f'{" or ".join(PROTOCOLS)}, or several with commas')
    if test_source is None:
      raise config_lib.ConfigError(
          f'{protocol} needs a test split, and config.test_split is empty')
    for split, source in (
        (config.train_split, train_source), (config.test_split, test_source)):
      if source.num_classes is None:
        raise config_lib.ConfigError(
            f'{protocol} needs labels, and {config.data} has none in its '
            f'split {split!r}')
  if 'linear' in protocols:
    _check_linear(config.linear, config.train_split, train_source)


def _check_linear(
    settings: ml_collections.ConfigDict, split: str,
    train_source: examples.Source) -> None:
  if not 0 <= settings.held_out_share < 1:
    raise config_lib.ConfigError(
        f'config.linear.held_out_share is {settings.held_out_share}, '
        'expected in [0, 1)')
  if settings.base_learning_rates and not settings.held_out_share:
    raise config_lib.ConfigError(
        'config.linear.base_learning_rates need config.linear.held_out_share '
        'above 0 to choose among them')
  if not settings.augment:
    return
  count = jax.device_count()
  if settings.batch_size % count:
    raise config_lib.ConfigError(
        f'config.linear.batch_size is {settings.batch_size}, expected a '
        f'multiple of {count} devices')
  if train_source.num_examples < settings.batch_size:
    raise config_lib.ConfigError(
        f'config.linear.batch_size is {settings.batch_size}, expected at '
        f'most the {train_source.num_examples} images of {split!r}')


def make_batches(
    source: examples.Source, config: ml_collections.ConfigDict,
    limit: int | None = None, image_size: int | None = None,
) -> Batches:
  """This process's share of a split, centre-cropped, in constant batches.

  Returns:
    A function that begins anew at each call; the pipeline is built once.
  """
  return pipeline.create_eval_dataset(
      source, config, batch_size=config.evaluate_batch_size,
      image_size=image_size, limit=limit,
      process_index=jax.process_index(), process_count=jax.process_count(),
  ).as_numpy_iterator


def run(
    protocol: str, config: ml_collections.ConfigDict,
    network: network_lib.Network, variables: Any,
    train_source: examples.Source, splits: features_lib.Splits,
) -> Iterator[tuple[str, float]]:
  """Runs one protocol that `check` has let pass.

  Args:
    protocol: one of `PROTOCOLS`.
    config: its `knn` and `linear` hold the protocols' settings.
    network: an unbound module.
    variables: `params` and `batch_stats` of the encoder to evaluate.
    train_source: for the protocol that looks at images again.
    splits: the features of both splits, by that encoder.

  Yields:
    Names and values, such as `knn/test_top1`.
  """
  if protocol == 'knn':
    yield from knn.run(
        splits.train, splits.test, k=config.knn.k,
        temperature=config.knn.temperature,
        num_classes=train_source.num_classes)
  else:
    yield from _run_linear(config, network, variables, train_source, splits)


def _run_linear(
    config: ml_collections.ConfigDict, network: network_lib.Network,
    variables: Any, train_source: examples.Source, splits: features_lib.Splits,
) -> Iterator[tuple[str, float]]:
  """Trains one head, or several to choose from; measures the chosen one."""
  settings = config.linear
  rates = tuple(settings.base_learning_rates) or (
      settings.base_learning_rate,)
  share = settings.held_out_share if len(rates) > 1 else 0.0
  held_out = linear.hold_out(splits.train.index, share, config.seed)
  options = dict(
      num_classes=train_source.num_classes, base_learning_rates=rates,
      batch_size=settings.batch_size, momentum=settings.momentum,
      seed=config.seed)
  if settings.augment:
    batches = pipeline.create_labelled_dataset(
        train_source, config, batch_size=settings.batch_size,
        total_steps=(settings.num_epochs * train_source.num_examples
                     // settings.batch_size), seed=config.seed,
        process_index=jax.process_index(), process_count=jax.process_count())
    heads = linear.train_on_images(
        lambda variables, images: network.apply(
            variables, images, train=False, method='encode'),
        variables, batches.as_numpy_iterator(), held_out=held_out,
        total_steps=(settings.num_epochs * train_source.num_examples
                     // settings.batch_size),
        embedding_size=splits.train.embedding.shape[1], **options)
  else:
    splits = _standardized(splits)
    weight = (~np.isin(splits.train.index, held_out)).astype(np.float32)
    heads = linear.train_on_features(
        splits.train.embedding, splits.train.label, weight,
        num_epochs=settings.num_epochs, **options)
  chosen = linear.choose(heads, splits.train, held_out)
  yield from linear.report(
      heads, chosen, splits.test, base_learning_rates=rates,
      num_classes=train_source.num_classes)


def _standardized(splits: features_lib.Splits) -> features_lib.Splits:
  train, test = linear.standardize(
      splits.train.embedding, splits.test.embedding)
  return features_lib.Splits(
      dataclasses.replace(splits.train, embedding=train),
      dataclasses.replace(splits.test, embedding=test))

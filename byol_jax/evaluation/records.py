"""Figures on disk: WORKDIR/evaluations/PROTOCOL-DATASET.json.

Each holds everything that makes its figures comparable with another's.
"""

import json
import pathlib
import re
from typing import Any

import ml_collections

from byol_jax.evaluation import features

Record = dict[str, Any]


def settings(
    protocol: str, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What of `config` a protocol's figures depend on."""
  if protocol == 'knn':
    return {'k': config.knn.k, 'temperature': config.knn.temperature}
  return config.linear.to_dict() | {
      'features': 'augmented' if config.linear.augment else 'standardized',
      'seed': config.seed}


def create_record(
    protocol: str, config: ml_collections.ConfigDict,
    splits: features.Splits, metrics: dict[str, float], *,
    checkpoint: str, step: int, random_init: bool,
) -> Record:
  """What was measured, on what, and how.

  Args:
    protocol: one of `protocols.PROTOCOLS`.
    config: of the evaluation.
    splits: what was evaluated on.
    metrics: what the protocol yielded.
    checkpoint: the workdir, or '' of a random initialisation.
    step: of the checkpoint.
    random_init: whether the encoder never learned anything.

  Returns:
    A dictionary of JSON's types.
  """
  return {
      'protocol': protocol,
      'metrics': metrics,
      'settings': settings(protocol, config),
      'data': config.data,
      'train_split': config.train_split,
      'test_split': config.test_split,
      'num_train_examples': len(splits.train.index),
      'num_test_examples': len(splits.test.index),
      'image_size': config.test_image_size or config.image_size,
      'test_crop_ratio': config.test_crop_ratio,
      'encoder': config.encoder,
      'embedding_size': splits.train.embedding.shape[1],
      'network': 'online, running statistics',
      'random_init': random_init,
      'checkpoint': checkpoint,
      'step': step,
  }


def dataset_slug(data: str) -> str:
  """`tfds:cifar10:3.0.2` to `cifar10-3.0.2`, for names of files."""
  kind, _, name = data.partition(':')
  if kind in ('folder', 'arrays'):
    name = pathlib.PurePath(name).stem
  elif kind != 'tfds':
    name = data
  return re.sub(r'[^A-Za-z0-9._]+', '-', name).strip('-') or kind


def write(directory: str | pathlib.Path, record: Record) -> pathlib.Path:
  """Writes a record to `directory/evaluations`; an older one is replaced."""
  path = pathlib.Path(directory) / 'evaluations'
  path.mkdir(parents=True, exist_ok=True)
  suffix = '-random_init' if record['random_init'] else ''
  path /= (
      f'{record["protocol"]}-{dataset_slug(record["data"])}{suffix}.json')
  path.write_text(json.dumps(record, indent=2) + '\n')
  return path


def read_all(directory: str | pathlib.Path) -> list[Record]:
  """All records of a workdir, in the order of their files' names."""
  paths = sorted((pathlib.Path(directory) / 'evaluations').glob('*.json'))
  return [json.loads(path.read_text()) for path in paths]


def comparable(record: Record) -> str:
  """Equal for two records if their figures may be set side by side."""
  return json.dumps([record[name] for name in (
      'protocol', 'settings', 'data', 'train_split', 'test_split',
      'num_train_examples', 'num_test_examples', 'image_size',
      'test_crop_ratio', 'encoder')], sort_keys=True)


def describe(record: Record) -> str:
  """A protocol with the settings to name beside its figures."""
  settings = record['settings']
  if record['protocol'] == 'knn':
    return f'kNN, k={settings["k"]}, temperature={settings["temperature"]:g}'
  rate = record['metrics']['linear/base_learning_rate']
  return (
      f'linear, {settings["num_epochs"]} epochs, batch '
      f'{settings["batch_size"]}, base learning rate {rate:g}, '
      f'{settings["features"]} features')


def table(records: list[Record]) -> str:
  """A small table for the terminal, one record a line."""
  rows = [('encoder', 'protocol', 'top-1 %', 'top-5 %')]
  for record in records:
    metrics, protocol = record['metrics'], record['protocol']
    figures = [
        f'{100 * metrics[name]:.2f}' if name in metrics else '-'
        for name in (f'{protocol}/test_top1', f'{protocol}/test_top5')]
    encoder = (
        'random init' if record['random_init'] else f'step {record["step"]}')
    rows.append((encoder, describe(record), *figures))
  widths = [max(map(len, column)) for column in zip(
      *rows, strict=True)]
  return '\n'.join(
      '  '.join((
          row[0].ljust(widths[0]), row[1].ljust(widths[1]),
          row[2].rjust(widths[2]), row[3].rjust(widths[3])))
      for row in rows)

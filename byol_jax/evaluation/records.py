"""Figures on disk: WORKDIR/evaluations/PROTOCOL-DATASET.json.

Each holds everything that makes its figures comparable with another's. All of
a workdir's are in evaluations/table.md, those of a pretrained encoder beside
those of the same one at random initialisation.
"""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
import re
from typing import Any
import zlib

from absl import logging
from etils import epath

from byol_jax import config as config_lib
from byol_jax import files
from byol_jax.evaluation import protocols
from byol_jax.evaluation import subject as subject_lib

Record = dict[str, Any]


def create_record(
    protocol: str, subject: subject_lib.Subject, metrics: dict[str, float], *,
    checkpoint: str, step: int, random_init: bool,
) -> Record:
  """What was measured, on what, and how.

  Args:
    protocol: one of `protocols`.
    subject: what was evaluated.
    metrics: what the protocol yielded.
    checkpoint: the workdir, or '' of a random initialisation.
    step: of the checkpoint.
    random_init: whether the encoder never learned anything.

  Returns:
    A dictionary of JSON's types.
  """
  module, config = protocols.get(protocol), subject.config
  sources = subject.sources
  return {
      'protocol': protocol,
      'description': module.describe(config, metrics),
      'headline': module.headline(config),
      'metrics': metrics,
      'settings': module.settings(config),
      'data': config.data,
      'train_split': config.train_split,
      'valid_split': config.valid_split,
      'test_split': config.test_split,
      'num_train_examples': sources.train.num_examples,
      'num_test_examples': sources.test.num_examples,
      'image_size': config_lib.test_image_size(config),
      'test_crop_ratio': config.test_crop_ratio,
      'encoder': config.encoder,
      'architecture': {
          'resnet': config_lib.to_dict(config)['resnet'],
          'encoder_norm': config.encoder_norm,
          'mean': list(config.augment.mean), 'std': list(config.augment.std)},
      'embedding_size': subject.embedding_size,
      'network': 'online, running statistics',
      'random_init': random_init,
      'checkpoint': checkpoint,
      'step': step,
  }


def dataset_slug(data: str) -> str:
  """`tfds:cifar10:3.0.2` to `cifar10-3.0.2`, for names of files."""
  kind, _, name = data.partition(':')
  if kind in ('folder', 'arrays', 'voc', 'cityscapes', 'pairs'):
    name = pathlib.PurePath(name).stem
  elif kind != 'tfds':
    name = data
  return re.sub(r'[^A-Za-z0-9._]+', '-', name).strip('-') or kind


def write(directory: epath.PathLike, record: Record) -> epath.Path:
  """Writes a record to `directory/evaluations`, and all of them as a table.

  An older one that it may be set beside is replaced; one of other settings, or
  of other data of the same name, is kept with a number in its name.
  """
  folder = epath.Path(directory) / 'evaluations'
  folder.mkdir(parents=True, exist_ok=True)
  name = f'{record["protocol"]}-{dataset_slug(record["data"])}'
  suffix = '-random_init' if record['random_init'] else ''
  path = folder / f'{name}{suffix}.json'

  def numbered(record: Record) -> epath.Path:
    number = zlib.crc32(comparable(record).encode())
    return folder / f'{name}-{number:08x}{suffix}.json'

  older = _read(path)
  if older and comparable(older) != comparable(record):
    path.replace(numbered(older))
  numbered(record).unlink(missing_ok=True)
  files.write_whole(path, json.dumps(record, indent=2) + '\n')
  files.write_whole(folder / 'table.md', markdown(read_all(directory)))
  return path


def _read(path: epath.Path) -> Record | None:
  """A record; of any other file it says that it is none."""
  if not path.exists():
    return None
  try:
    record = json.loads(path.read_text())
    headline(record), markdown([record])
  except (ArithmeticError, AttributeError, LookupError, OSError, TypeError,
          ValueError):
    logging.warning('%s is no record of an evaluation: passed over', path)
    return None
  return record


def read_all(directory: epath.PathLike) -> list[Record]:
  """All records of a workdir, in the order of their files' names."""
  folder = epath.Path(directory) / 'evaluations'
  paths = sorted(
      path for path in (folder.iterdir() if folder.is_dir() else ())
      if path.name.endswith('.json'))
  return [record for record in map(_read, paths) if record is not None]


# These have image sizes of their own among their settings.
_DENSE = ('segmentation', 'depth')


def comparable(record: Record) -> str:
  """Equal for two records if their figures may be set side by side."""
  names = [
      'protocol', 'settings', 'data', 'train_split', 'valid_split',
      'test_split', 'num_train_examples', 'num_test_examples', 'encoder',
      'architecture']
  if record['protocol'] not in _DENSE:
    names += ['image_size', 'test_crop_ratio']
  return json.dumps([record.get(name) for name in names], sort_keys=True)


def headline(record: Record) -> float:
  """The figure that stands for the record."""
  return record['metrics'][record['headline']]


_WORDS = {'top1': 'top-1', 'top5': 'top-5', 'mean_per_class': 'mean per class',
          'map': 'mAP', 'miou': 'mIoU'}


def name_metric(metric: str) -> str:
  """`semi_supervised/1pct_test_top1` to `1pct top-1`."""
  share, _, figure = metric.partition('/')[2].rpartition('test_')
  return f'{share.strip("_")} {_WORDS.get(figure, figure)}'.strip()


def figures(record: Record) -> dict[str, float]:
  """What was measured on the test split, by what people call it."""
  return {
      name_metric(name): value for name, value in record['metrics'].items()
      if 'test_' in name}


def is_share(name: str) -> bool:
  """Whether more is better, and 1 is all; else it is an error."""
  return name.split()[-1] not in ('rms', 'rel')


def format_figure(name: str, value: float) -> str:
  """A share in percent; an error as it is."""
  return f'{100 * value:.2f}' if is_share(name) else f'{value:.3f}'


def describe_data(record: Record) -> str:
  """What was learned from and measured on, in words."""
  size = ''
  if record['protocol'] not in _DENSE:
    size = f', at {record["image_size"]} px'
    if record['test_crop_ratio'] != 1:
      size += f' of {round(record["image_size"] / record["test_crop_ratio"])}'
  return (
      f'{record["data"]}: {record["num_train_examples"]} of '
      f'{record["train_split"]}, {record["num_test_examples"]} of '
      f'{record["test_split"]}{size}')


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One figure of two encoders, pretrained and at random initialisation.

  Attributes:
    record: of the pretrained one, if there is one.
    description: of the protocol, as each of them was fitted.
    name: of the figure.
    random_init: its value, or None.
    pretrained: likewise.
  """

  record: Record
  description: str
  name: str
  random_init: float | None
  pretrained: float | None

  @property
  def gain(self) -> float | None:
    if self.random_init is None or self.pretrained is None:
      return None
    return self.pretrained - self.random_init

  @property
  def data(self) -> str:
    """What was learned from and measured on, in words."""
    return describe_data(self.record)

  def cells(self) -> tuple[str, str, str]:
    """Random initialisation, pretrained, gain; a dash for what is missing."""
    def show(value: float | None) -> str:
      return '–' if value is None else format_figure(self.name, value)

    sign = '+' if (self.gain or 0) > 0 else ''
    return (show(self.random_init), show(self.pretrained),
            sign + show(self.gain))


def compare(records: Sequence[Record]) -> list[Comparison]:
  """Sets side by side what may be: one for each figure."""
  pairs = {}
  for record in records:
    pairs.setdefault(comparable(record), {})[record['random_init']] = record
  return [
      Comparison(shown, _describe_both(pair), name, *(
          figures(pair[key]).get(name) if key in pair else None
          for key in (True, False)))
      for pair in pairs.values()
      for shown in [pair.get(False) or pair[True]]
      for name in figures(shown)]


def _describe_both(pair: dict[bool, Record]) -> str:
  """What was chosen for one encoder may not be what was for the other."""
  said = {
      kind: record.get('description', record['protocol'])
      for kind, record in pair.items()}
  if len(set(said.values())) == 1:
    return next(iter(said.values()))
  parts = {kind: text.split(', ') for kind, text in said.items()}
  other = [part for part in parts[True] if part not in parts[False]]
  return f'{said[False]}; at random init {", ".join(other)}'


def markdown(records: Sequence[Record]) -> str:
  """The comparisons as a table; shares in percent."""
  lines = ['| protocol | data | figure | random init | pretrained | gain |',
           '|---|---|---|---:|---:|---:|']
  lines += [
      '| ' + ' | '.join((
          row.description, row.data, row.name, *row.cells())) + ' |'
      for row in compare(records)]
  return '\n'.join(lines) + '\n'


def table(records: list[Record]) -> str:
  """A small table for the terminal, one record a line; shares in percent."""
  rows = [('encoder', 'protocol', 'figures, in %')]
  for record in records:
    encoder = (
        'random init' if record['random_init'] else f'step {record["step"]}')
    rows.append((encoder, record['description'], '  '.join(
        f'{name} {format_figure(name, value)}'
        for name, value in figures(record).items())))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
      '  '.join(cell.ljust(width) for cell, width in zip(
          row, widths, strict=True)).rstrip() for row in rows)

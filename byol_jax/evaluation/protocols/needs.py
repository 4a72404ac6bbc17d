"""What protocols need of the data, checked before anything is compiled."""

from collections.abc import Sequence

import jax
import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.data import examples
from byol_jax.evaluation import selection
from byol_jax.evaluation import subject as subject_lib


def labels(
    protocol: str, config: ml_collections.ConfigDict,
    sources: subject_lib.Sources) -> None:
  """Raises ConfigError unless all splits have labels of the same classes."""
  if sources.test is None:
    raise config_lib.ConfigError(
        f'{protocol} needs a test split, and config.test_split is empty')
  train = sources.train.num_classes
  for name in ('train', 'valid', 'test'):
    source, split = getattr(sources, name), config[f'{name}_split']
    if source is None:
      continue
    if source.num_classes is None:
      raise config_lib.ConfigError(
          f'{protocol} needs labels, and {config.data} has none in its '
          f'split {split!r}')
    if source.num_classes != train:
      raise config_lib.ConfigError(
          f'{config.data} has {train} classes in its split '
          f'{config.train_split!r} and {source.num_classes} in {split!r}, '
          'expected the same: name all classes in both')
  _metric(config, sources.train)


def _metric(
    config: ml_collections.ConfigDict, source: examples.Source) -> None:
  if source.is_multi_label != (config.metric == 'map'):
    kind = 'several labels' if source.is_multi_label else 'one label'
    expected = (
        'map' if source.is_multi_label else 'top1 or mean_per_class')
    raise config_lib.ConfigError(
        f'config.metric is {config.metric}, and examples of {config.data} '
        f'have {kind} each; expected {expected}')


def single_labels(
    protocol: str, config: ml_collections.ConfigDict,
    sources: subject_lib.Sources) -> None:
  """Raises ConfigError unless every example has one label."""
  labels(protocol, config, sources)
  if sources.train.is_multi_label:
    raise config_lib.ConfigError(
        f'{protocol} needs one label for each example, and those of '
        f'{config.data} have several; logistic and finetune take them')


def held_out_share(
    protocol: str, config: ml_collections.ConfigDict, *, has_choice: bool,
    num_examples: int | None = None,
) -> None:
  """Raises ConfigError unless there are examples to choose settings on.

  Args:
    protocol: its name.
    config: of the evaluation.
    has_choice: whether there are several settings.
    num_examples: to fit on and to hold out of; None: both will have some.
  """
  share = config[protocol].held_out_share
  if not 0 <= share < 1:
    raise config_lib.ConfigError(
        f'config.{protocol}.held_out_share is {share}, expected in [0, 1)')
  if has_choice and not share and not config.valid_split:
    raise config_lib.ConfigError(
        f'config.{protocol} has several settings to choose from, and nothing '
        f'to choose on: give config.{protocol}.held_out_share above 0 or a '
        'config.valid_split')
  if num_examples is None or not has_choice or config.valid_split:
    return
  count = len(selection.hold_out(np.arange(num_examples), share, config.seed))
  if not 0 < count < num_examples:
    raise config_lib.ConfigError(
        f'config.{protocol}.held_out_share is {share:g}, and of the '
        f'{num_examples} images of {config.train_split!r} that leaves none to '
        f'{"fit" if count else "choose settings"} on: give another share, a '
        'config.valid_split or more images')


def not_empty(
    protocol: str, config: ml_collections.ConfigDict, fields: Sequence[str]
) -> None:
  """Raises ConfigError for a field without a value to try."""
  for field in fields:
    if not config[protocol][field]:
      raise config_lib.ConfigError(
          f'config.{protocol}.{field} is empty, expected at least one value')


def devices(protocol: str, config: ml_collections.ConfigDict) -> None:
  """Raises ConfigError for a batch that devices cannot share."""
  size, count = config[protocol].batch_size, jax.device_count()
  if size % count:
    raise config_lib.ConfigError(
        f'config.{protocol}.batch_size is {size}, expected a multiple of '
        f'{count} devices')


def batch(
    protocol: str, config: ml_collections.ConfigDict, num_examples: int
) -> None:
  """Raises ConfigError for a batch that devices or examples cannot fill."""
  devices(protocol, config)
  size = config[protocol].batch_size
  if num_examples < size:
    raise config_lib.ConfigError(
        f'config.{protocol}.batch_size is {size}, expected at most the '
        f'{num_examples} images of {config.train_split!r}')


def maps(
    protocol: str, config: ml_collections.ConfigDict,
    sources: subject_lib.Sources, *, kind: str) -> None:
  """Raises ConfigError unless every split has maps, and what learns them.

  Args:
    protocol: its name.
    config: of the evaluation.
    sources: to learn from and to measure on.
    kind: of the maps, `label` or `depth`.
  """
  if config.encoder not in config_rules.ENCODERS:
    raise config_lib.ConfigError(
        f'{protocol} needs feature maps, and the encoder {config.encoder} is '
        'not one of ours, which have them before pooling')
  if sources.test is None:
    raise config_lib.ConfigError(
        f'{protocol} needs a test split, and config.test_split is empty')
  for name in ('train', 'valid', 'test'):
    source, split = getattr(sources, name), config[f'{name}_split']
    if source is not None and getattr(source, f'load_{kind}', None) is None:
      others = ', voc:PATH or cityscapes:PATH' if kind == 'label' else ''
      raise config_lib.ConfigError(
          f'{protocol} needs {kind} maps, and {config.data} has none in its '
          f'split {split!r}; expected pairs:PATH{others}')
  not_empty(protocol, config, ('learning_rates', 'freeze_encoder'))
  held_out_share(
      protocol, config,
      has_choice=len(config[protocol].learning_rates) > 1,
      num_examples=sources.train.num_examples)
  devices(protocol, config)

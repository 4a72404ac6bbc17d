"""What is known of a dataset without opening it."""

import dataclasses
import re

import ml_collections

from byol_jax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Facts:
  """Of a training split.

  Attributes:
    num_examples: images of an epoch.
    num_classes: None where there are no labels.
  """

  num_examples: int
  num_classes: int | None


# Of the split `train` of TFDS's datasets.
_KNOWN = {
    'cifar10': Facts(50_000, 10),
    'cifar100': Facts(50_000, 100),
    'imagenet2012': Facts(1_281_167, 1000),
    'imagenette/160px-v2': Facts(9_469, 10),
    'imagenette/320px-v2': Facts(9_469, 10),
    'imagenette/full-size-v2': Facts(9_469, 10),
}


def find_facts(
    config: ml_collections.ConfigDict, *, num_examples: int | None,
    num_classes: int | None,
) -> Facts:
  """What a run on `config.data` would meet.

  Args:
    config: `data` and `train_split` are read.
    num_examples: wins over what is known.
    num_classes: likewise; 0 says that there are no labels.

  Raises:
    ConfigError: if a number is neither given nor known.
  """
  known = _known_facts(config)
  if known is None and (num_examples is None or num_classes is None):
    raise ConfigError(
        f'how large {config.data} ({config.train_split}) is is not known '
        'without opening it, which a plan does not: give --num_examples and '
        '--num_classes (0: no labels)')
  return Facts(
      num_examples=known.num_examples if num_examples is None
      else num_examples,
      num_classes=known.num_classes if num_classes is None
      else num_classes or None)


def _known_facts(config: ml_collections.ConfigDict) -> Facts | None:
  kind, _, name = config.data.partition(':')
  if kind == 'tfds' and config.train_split == 'train':
    return _KNOWN.get(re.sub(r'[:/][\d.*]+$', '', name))  # any version
  return None

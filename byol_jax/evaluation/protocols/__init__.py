"""The protocols: what each asks of the data, and what it yields.

Each is a module of

    headline(config)               the metric that stands for it
    check(config, sources)         raises ConfigError for what cannot run
    settings(config)               what its figures depend on, in JSON's types
    describe(config, metrics)      the settings to name beside them
    run(subject)                   yields (name, value)

Accuracies are shares in [0, 1].
"""

from collections.abc import Sequence
from types import ModuleType

from absl import logging
import ml_collections

from byol_jax import config as config_lib
from byol_jax.evaluation import subject as subject_lib
from byol_jax.evaluation.protocols import depth
from byol_jax.evaluation.protocols import finetune
from byol_jax.evaluation.protocols import knn
from byol_jax.evaluation.protocols import linear
from byol_jax.evaluation.protocols import logistic
from byol_jax.evaluation.protocols import segmentation
from byol_jax.evaluation.protocols import semi_supervised

_MODULES = {
    'knn': knn,
    'linear': linear,
    'logistic': logistic,
    'semi_supervised': semi_supervised,
    'finetune': finetune,
    'segmentation': segmentation,
    'depth': depth,
}


def get(name: str) -> ModuleType:
  """The module of a protocol. Raises ConfigError if there is none."""
  if name not in _MODULES:
    raise config_lib.ConfigError(
        f'unknown protocol {name!r}, expected all, or some of '
        f'{", ".join(_MODULES)} with commas')
  return _MODULES[name]


def check(
    names: Sequence[str], config: ml_collections.ConfigDict,
    sources: subject_lib.Sources) -> None:
  """Raises ConfigError for the first protocol that the data cannot give."""
  for name in names:
    get(name).check(config, sources)


def choose(
    names: Sequence[str], config: ml_collections.ConfigDict,
    sources: subject_lib.Sources) -> list[str]:
  """The protocols that the data allow; says why others are left out."""
  chosen = []
  for name in names:
    try:
      get(name).check(config, sources)
      chosen.append(name)
    except config_lib.ConfigError as error:
      logging.info('%s is left out: %s', name, error)
  return chosen

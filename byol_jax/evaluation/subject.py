"""What a protocol is given: an encoder, the data, and features of it."""

from collections.abc import Callable
import dataclasses
import functools
import hashlib
import json
from typing import Any

from etils import epath
import jax
import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax.data import examples
from byol_jax.data import sources as sources_lib
from byol_jax.evaluation import features as features_lib
from byol_jax.evaluation import progress as progress_lib
from byol_jax.networks import network as network_lib
from byol_jax.training import agreement


@dataclasses.dataclass(frozen=True)
class Sources:
  """The splits of a dataset.

  Attributes:
    train: to learn from.
    test: to measure on; None where there is none.
    valid: to choose settings on; None: a held-out share of train.
  """

  train: examples.Source
  test: examples.Source | None
  valid: examples.Source | None = None


def open_sources(config: ml_collections.ConfigDict) -> Sources:
  """Opens the splits that `config` names, in all processes alike.

  Raises:
    ConfigError: it cannot, or other processes find other images.
  """
  open_split = functools.partial(sources_lib.create_source, config)
  sources = Sources(
      open_split(config.train_split),
      open_split(config.test_split) if config.test_split else None,
      open_valid(config))
  for source in (sources.train, sources.test, sources.valid):
    if source is not None:
      # Who counts other files reads other images at a position of the run.
      agreement.check_same(
          f'the images of {source.name} (how many; their names and sizes)',
          [source.num_examples, source.contents])
  return sources


def open_valid(config: ml_collections.ConfigDict) -> examples.Source | None:
  """The split to choose settings on; None where `config` names none."""
  if not config.valid_split:
    return None
  return sources_lib.create_source(config, config.valid_split)


class Extractor:
  """Features of every split; compiles once for all encoders of a network."""

  def __init__(
      self, config: ml_collections.ConfigDict, network: network_lib.Network,
      sources: Sources):
    """The pipelines are built when they are first read."""
    self._predict = features_lib.make_predict(network)
    self._batches = {
        name: features_lib.make_batches(source, config)
        for name in ('train', 'valid', 'test')
        if (source := getattr(sources, name)) is not None}

  def run(
      self, variables: Any, make_progress: Callable[
          [str], progress_lib.Progress]) -> features_lib.Splits:
    """Extracts all splits, or what of them is not done yet.

    Args:
      variables: `params` and `batch_stats`.
      make_progress: of each split.
    """
    return features_lib.Splits(**{
        name: features_lib.resume_features(
            self._predict, variables, batches, make_progress(name))
        for name, batches in self._batches.items()})


@dataclasses.dataclass(frozen=True)
class Subject:
  """An encoder and what it is evaluated on.

  Attributes:
    config: of the evaluation.
    network: an unbound module.
    variables: `params` and `batch_stats` of the online network.
    sources: with labels, or whatever the protocol has checked them for.
    extractor: of features.
    progress_directory: where unfinished work of this very evaluation is kept,
      see `identify`; None: nowhere.
  """

  config: ml_collections.ConfigDict
  network: network_lib.Network
  variables: Any
  sources: Sources
  extractor: Extractor
  progress_directory: str | None = None

  def open_progress(self, name: str) -> progress_lib.Progress:
    """Unfinished work of a part of the job."""
    return progress_lib.Progress(
        self.progress_directory and f'{self.progress_directory}/{name}')

  @functools.cached_property
  def splits(self) -> features_lib.Splits:
    """Features of every split, extracted when first asked for."""
    return self.extractor.run(
        self.variables, lambda name: self.open_progress(f'features_{name}'))

  @functools.cached_property
  def embedding_size(self) -> int:
    """D."""
    size = config_lib.test_image_size(self.config)
    images = jax.ShapeDtypeStruct(
        (1, size, size, len(self.network.mean)), np.float32)
    return jax.eval_shape(
        functools.partial(self.network.apply, method='encode'),
        self.variables, images).shape[-1]


def identify(
    config: ml_collections.ConfigDict, variables: Any,
    *sources: examples.Source | None) -> str:
  """A name for an evaluation: another's unfinished work has another.

  Made of the whole config, the contents of files it names, the encoder's
  weights, the data as they are now, and the number of processes, which share
  the examples. All of them have the name that the first finds.
  """
  data = [source and (source.num_examples, source.fingerprint)
          for source in sources]
  digest = hashlib.sha256(json.dumps(
      [config_lib.to_dict(config), jax.process_count(), data],
      sort_keys=True).encode())
  for path in config.semi_supervised.subsets:
    digest.update(epath.Path(path).expanduser().read_bytes())
  for leaf in jax.tree.leaves(jax.device_get(variables)):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  # Copies of the data differ in their dates.
  return agreement.of_first(digest.digest()[:8].hex())

"""Depth from one image with an up-projection head (paper, appendix D.6).

As the paper, it is learned and measured on the centres of half-size images.
The paper does not say how the learning rate falls; here it does as in D.4.
"""

from collections.abc import Iterator
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax.data import dense as dense_data
from byol_jax.data import dense_pipeline
from byol_jax.data import unreadable
from byol_jax.evaluation import dense
from byol_jax.evaluation import depth
from byol_jax.evaluation import subject as subject_lib
from byol_jax.evaluation.protocols import needs
from byol_jax.networks.up_projection import DepthHead
from byol_jax.training import devices


def check(
    config: ml_collections.ConfigDict, sources: subject_lib.Sources) -> None:
  """Raises ConfigError for what cannot run."""
  needs.maps('depth', config, sources, kind='depth')
  settings = config.depth
  crop = np.array([settings.crop_height, settings.crop_width])
  for source in (sources.train, sources.valid, sources.test):
    if source is None:
      continue
    smallest = source.sizes.min(axis=0)
    if np.any(np.round(smallest * settings.scale) < crop):
      raise config_lib.ConfigError(
          f'{source.name} has images {smallest[0]} pixels high or '
          f'{smallest[1]} wide, scaled by {settings.scale:g}; expected at '
          f'least {crop[0]} by {crop[1]} then: lower config.depth.crop_height '
          'and crop_width, or raise config.depth.scale')


def settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What its figures depend on."""
  return config.depth.to_dict() | {'seed': config.seed}


def headline(config: ml_collections.ConfigDict) -> str:
  """Of the first of `freeze_encoder`."""
  return dense.name_metric(
      config, 'depth', config.depth.freeze_encoder[0], 'test_delta1')


def describe(
    config: ml_collections.ConfigDict, metrics: dict[str, float]) -> str:
  """The settings to name beside its figures."""
  settings = config.depth
  return (f'up-projections on {settings.crop_width}x{settings.crop_height} '
          f'pixels, {dense.describe(config, "depth", metrics)}')


def run(subject: subject_lib.Subject) -> Iterator[tuple[str, float]]:
  """Yields what `dense.run` does; for figures see `depth.DepthMetrics`."""
  config = subject.config
  settings = config.depth
  yield from dense.run(subject, dense.DenseTask(
      name='depth',
      head=DepthHead(
          norm=dense.make_norm(config),
          channels=tuple(settings.head_channels),
          dtype=jnp.dtype(config.compute_dtype)),
      dilate_last=False, head_stride=2**len(settings.head_channels),
      loss=lambda outputs, batch: depth.reverse_huber(
          outputs[..., 0], batch['depth'], axis_name=devices.AXIS_NAME),
      readout=lambda outputs: outputs[..., 0],
      make_dataset=functools.partial(
          dense_pipeline.create_depth_train_dataset, settings=settings,
          seed=config.seed),
      measure=functools.partial(_measure, settings=settings),
      figure='delta1'))


def _measure(
    predict: dense.Predict, source: dense_data.DenseSource,
    index: np.ndarray | None, *, settings: ml_collections.ConfigDict,
) -> dict[str, float]:
  metrics = depth.DepthMetrics()
  dataset = dense_pipeline.create_depth_eval_dataset(
      source, settings, batch_size=settings.evaluate_batch_size, index=index,
      process_index=jax.process_index(), process_count=jax.process_count())
  for batch in unreadable.guard(source, dataset.as_numpy_iterator()):
    metrics.add(predict(batch['image']), batch['depth'])
  return metrics.total().compute()

"""Semantic segmentation with an FCN head (paper, appendix D.4).

The paper measures on central crops of 513 pixels. Here whole images count, at
their own size.
"""

from collections.abc import Iterator
import functools
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax.data import dense as dense_data
from byol_jax.data import dense_pipeline
from byol_jax.data import unreadable
from byol_jax.evaluation import dense
from byol_jax.evaluation import segmentation
from byol_jax.evaluation import selection
from byol_jax.evaluation import subject as subject_lib
from byol_jax.evaluation.protocols import needs
from byol_jax.networks import network as network_lib
from byol_jax.networks.segmentation import FCNHead
from byol_jax.training import agreement


def check(
    config: ml_collections.ConfigDict, sources: subject_lib.Sources) -> None:
  """Raises ConfigError for what cannot run."""
  needs.maps('segmentation', config, sources, kind='label')
  train = sources.train.map_classes
  for name in ('valid', 'test'):
    source = getattr(sources, name)
    if source is not None and len(source.map_classes) != len(train):
      raise config_lib.ConfigError(
          f'{config.data} has {len(train)} classes in its split '
          f'{config.train_split!r} and {len(source.map_classes)} in '
          f'{config[f"{name}_split"]!r}, expected the same')
  _check_labelled(config, sources)
  stride = network_lib.create_encoder(config, dilate_last=True).stride
  size = config.segmentation.crop_size
  if config.resnet.padding == 'same' and size % stride != 1:
    near = max(round((size - 1) / stride), 1) * stride + 1
    raise config_lib.ConfigError(
        f'config.segmentation.crop_size is {size}, and this encoder pads as '
        f'`same` at an output stride of {stride}: expected a multiple of it '
        f'plus 1, such as {near}, which keeps its maps centred')


def _check_labelled(
    config: ml_collections.ConfigDict, sources: subject_lib.Sources) -> None:
  """Raises ConfigError where not one pixel to fit or measure on counts."""
  for name in ('train', 'valid', 'test'):
    source = getattr(sources, name)
    if source is not None and not source.is_labelled.any():
      raise config_lib.ConfigError(
          f'every pixel of the label maps of {source.name} is ignored, as in '
          'splits whose labels are kept secret; choose another '
          f'config.{name}_split')
  settings = config.segmentation
  if sources.valid is not None or len(settings.learning_rates) == 1:
    return
  labelled = sources.train.is_labelled
  everything = np.arange(len(labelled))
  held_out = selection.hold_out(
      everything, settings.held_out_share, config.seed)
  for index, what in (
      (held_out, 'to choose'),
      (np.setdiff1d(everything, held_out), 'to fit')):
    if not labelled[index].any():
      raise config_lib.ConfigError(
          f'every pixel of the {len(index)} label maps of '
          f'{sources.train.name} that config.segmentation.held_out_share='
          f'{settings.held_out_share:g} leaves {what} on is ignored; give '
          'another share or a config.valid_split')


def settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What its figures depend on."""
  return config.segmentation.to_dict() | {'seed': config.seed}


def headline(config: ml_collections.ConfigDict) -> str:
  """Of the first of `freeze_encoder`."""
  return dense.name_metric(
      config, 'segmentation', config.segmentation.freeze_encoder[0],
      'test_miou')


def describe(
    config: ml_collections.ConfigDict, metrics: dict[str, float]) -> str:
  """The settings to name beside its figures."""
  return (f'FCN on crops of {config.segmentation.crop_size}, '
          f'{dense.describe(config, "segmentation", metrics)}')


def run(subject: subject_lib.Subject) -> Iterator[tuple[str, float]]:
  """Yields what `dense.run` does, the figures being miou, pixel_accuracy."""
  config = subject.config
  settings = config.segmentation
  classes = subject.sources.train.map_classes
  mean = subject.network.mean
  yield from dense.run(subject, dense.DenseTask(
      name='segmentation',
      head=FCNHead(
          num_classes=len(classes), norm=dense.make_norm(config),
          channels=settings.head_channels, dilation=settings.head_dilation,
          dtype=jnp.dtype(config.compute_dtype)),
      dilate_last=True, head_stride=1,
      loss=lambda logits, batch: segmentation.cross_entropy(
          logits, batch['label']),
      readout=_most_likely,
      make_dataset=functools.partial(
          dense_pipeline.create_segmentation_train_dataset, settings=settings,
          mean=mean, seed=config.seed),
      measure=functools.partial(
          _measure, batch_size=settings.evaluate_batch_size, mean=mean),
      figure='miou'))


def _most_likely(logits: jax.Array) -> jax.Array:
  return jnp.argmax(logits, axis=-1).astype(jnp.uint8)


def _measure(
    predict: dense.Predict, source: dense_data.DenseSource,
    index: np.ndarray | None, *, batch_size: int, mean: tuple[float, ...],
) -> dict[str, float]:
  count = len(source.map_classes)
  confusions = np.zeros((count, count), np.int64)
  dataset = dense_pipeline.create_segmentation_eval_dataset(
      source, batch_size=batch_size, mean=mean, index=index,
      process_index=jax.process_index(), process_count=jax.process_count())
  for batch in unreadable.guard(source, dataset.as_numpy_iterator()):
    confusions += segmentation.count_confusions(
        predict(batch['image']), batch['label'], count)
  confusions = agreement.total(confusions)
  logging.info('IoU in %%: %s', ', '.join(
      f'{name} {100 * iou:.1f}' for name, iou in zip(
          source.map_classes, segmentation.class_ious(confusions),
          strict=True)))
  return segmentation.measure(confusions)

"""Learning to predict every pixel: fits, and the choice among them.

Both `segmentation` and `depth` try several learning rates, choose one on
validation, fit all of train with it, and measure on test. What differs between
them is a `DenseTask`.
"""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import tensorflow as tf

from byol_jax import peers
from byol_jax.data import dense as dense_data
from byol_jax.data import unreadable
from byol_jax.evaluation import finetuning
from byol_jax.evaluation import selection
from byol_jax.evaluation import subject as subject_lib
from byol_jax.networks import dense as dense_networks
from byol_jax.networks import network as network_lib
from byol_jax.networks import normalization
from byol_jax.training import devices

# Shares of the steps from which the learning rate is a tenth of what it was.
_DECAYED_FROM = (0.7, 0.9)

# Maps a batch of images to what is measured.
Predict = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class DenseTask:
  """One kind of map to predict.

  Attributes:
    name: of the protocol and of its section in the config.
    head: maps the encoder's maps to outputs.
    dilate_last: whether the encoder's last group keeps its resolution.
    head_stride: by how much the head enlarges what it is given.
    loss: see `finetuning.Task`.
    readout: maps the module's outputs [b, H, W, C] to what is measured, on
      the device.
    make_dataset: called as `make_dataset(source, index=..., start_step=...,
      total_steps=..., process_index=..., process_count=...)`, augmented
      batches of `settings.batch_size`.
    measure: maps (predict, source, index) to figures by name; `predict` maps
      images to `readout`'s result. `index` None is all of the source. Each
      process reads its share, and all get the figures of the whole.
    figure: the name of the one to choose by, the more the better.
  """

  name: str
  head: nn.Module
  dilate_last: bool
  head_stride: int
  loss: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
  readout: Callable[[jax.Array], jax.Array]
  make_dataset: Callable[..., tf.data.Dataset]
  measure: Callable[..., dict[str, float]]
  figure: str


def make_norm(config: ml_collections.ConfigDict) -> Callable[..., nn.Module]:
  """The heads' batch normalisation, whatever the encoder's."""
  return functools.partial(
      normalization.BatchNorm, momentum=config.batch_norm_momentum,
      epsilon=config.norm_epsilon, axis_name=devices.AXIS_NAME)


def run(
    subject: subject_lib.Subject, task: DenseTask
) -> Iterator[tuple[str, float]]:
  """Fits, chooses and measures, with the encoder learning or frozen.

  Yields:
    `NAME/test_FIGURE` of each figure and `NAME/learning_rate`, the chosen one;
    where `freeze_encoder` is both, with `finetuned_` and `frozen_` before
    their names.
  """
  for frozen in subject.config[task.name].freeze_encoder:
    figures = subject.open_progress(f'{task.name}_{_kind(frozen)}').keep(
        'figures', functools.partial(_run_once, subject, task, frozen))
    for key, value in figures.items():
      yield name_metric(subject.config, task.name, frozen, key), value


def name_metric(
    config: ml_collections.ConfigDict, name: str, frozen: bool, key: str
) -> str:
  """What `run` calls a value."""
  both = len(config[name].freeze_encoder) > 1
  return f'{name}/{_kind(frozen) + "_" if both else ""}{key}'


def describe(
    config: ml_collections.ConfigDict, name: str, metrics: dict[str, float]
) -> str:
  """Which encoder, how many steps, which learning rate."""
  settings = config[name]
  kinds = ', '.join(
      f'{_kind(frozen)} at learning rate '
      f'{metrics[name_metric(config, name, frozen, "learning_rate")]:g}'
      for frozen in settings.freeze_encoder)
  return f'{settings.num_steps} steps of {settings.batch_size}, {kinds}'


def _kind(frozen: bool) -> str:
  return 'frozen' if frozen else 'finetuned'


def _run_once(
    subject: subject_lib.Subject, task: DenseTask, frozen: bool
) -> Iterator[tuple[str, float]]:
  config, sources, kind = subject.config, subject.sources, _kind(frozen)
  settings = config[task.name]
  progress = subject.open_progress(f'{task.name}_{kind}')
  valid = fitted = None
  if sources.valid is None:
    everything = np.arange(sources.train.num_examples)
    valid = selection.hold_out(
        everything, settings.held_out_share, config.seed)
    fitted = np.setdiff1d(everything, valid)
  fitter = _Fitter(subject, task, frozen)

  def fit(rate: float, index: np.ndarray | None, what: str) -> Any:
    return fitter.fit(
        sources.train, index, learning_rate=rate,
        what=f'{task.name}, {kind}, {what}, learning rate {rate:g}',
        directory=progress.place(f'{what}_rate{rate:g}'))

  def measure(rate: float) -> float:
    figures = fitter.measure(
        fit(rate, fitted, 'sweep'), sources.valid or sources.train, valid)
    return figures[task.figure]

  best = selection.choose(settings.learning_rates, measure, progress)
  figures = fitter.measure(fit(best, None, 'final'), sources.test, None)
  for name, value in figures.items():
    yield f'test_{name}', value
  yield 'learning_rate', float(best)


class _Fitter:
  """Fits the task on an encoder, each time from the same start."""

  def __init__(
      self, subject: subject_lib.Subject, task: DenseTask, frozen: bool):
    config = subject.config
    self._config, self._task = config, task
    encoder = network_lib.create_encoder(
        config, axis_name=devices.AXIS_NAME, dilate_last=task.dilate_last,
        pool=False)
    module = dense_networks.DenseTransfer(
        encoder=encoder, head=task.head, mean=subject.network.mean,
        std=subject.network.std, freeze_encoder=frozen,
        axis_name=devices.AXIS_NAME, stride=encoder.stride / task.head_stride)
    finetuned = finetuning.Task(module, task.loss)
    self._trainer = finetuning.Trainer(finetuned, functools.partial(
        _make_optimizer, momentum=config[task.name].momentum,
        total_steps=config[task.name].num_steps))
    # What is measured is chosen on the device: logits of all classes and
    # pixels would take longer to fetch than to compute.
    self._predict = devices.Predict(
        lambda variables, images: task.readout(
            module.apply(variables, images, train=False)))
    size = 2 * encoder.stride + 1  # any will do
    self._start = finetuning.initialize(
        finetuned, jax.random.key(config.seed), jnp.zeros((1, size, size, 3)),
        subject.variables)

  def fit(
      self, source: dense_data.DenseSource, index: np.ndarray | None, *,
      learning_rate: float, what: str, directory: str | None) -> Any:
    """Trains on `index` of the source, or all of it; returns variables."""
    settings = self._config[self._task.name]

    def make_batches(first: int) -> Iterator[dict[str, np.ndarray]]:
      return unreadable.guard(source, self._task.make_dataset(
          source, index=index, start_step=first,
          total_steps=settings.num_steps, process_index=jax.process_index(),
          process_count=jax.process_count()).as_numpy_iterator())

    return self._trainer.fit(
        self._start, make_batches, total_steps=settings.num_steps, what=what,
        directory=directory, settings={
            'learning_rate': learning_rate,
            'weight_decay': settings.weight_decay})

  def measure(
      self, variables: Any, source: dense_data.DenseSource,
      index: np.ndarray | None) -> dict[str, float]:
    """Figures on `index` of the source, of which each process has its share."""
    variables = devices.replicate(variables)

    def predict(images: np.ndarray) -> np.ndarray:
      peers.advance(f'{self._task.name}, measuring')
      return self._predict(variables, images)

    return self._task.measure(predict, source, index)


def _make_optimizer(
    settings: dict[str, jax.Array], *, momentum: float, total_steps: int
) -> optax.GradientTransformation:
  def schedule(step: jax.Array) -> jax.Array:
    factors = [jnp.where(step < round(share * total_steps), 1.0, 0.1)
               for share in _DECAYED_FROM]
    return factors[0] * factors[1]

  return finetuning.sgd(
      settings, schedule=schedule, momentum=momentum, nesterov=False)

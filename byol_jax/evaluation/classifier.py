"""Fine-tuning an encoder with a linear classifier on top of it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from byol_jax import config as config_lib
from byol_jax.data import examples
from byol_jax.data import pipeline
from byol_jax.data import unreadable
from byol_jax.evaluation import features as features_lib
from byol_jax.evaluation import finetuning
from byol_jax.evaluation import resumable
from byol_jax.evaluation import subject as subject_lib
from byol_jax.networks import heads
from byol_jax.networks import network as network_lib
from byol_jax.networks import transfer
from byol_jax.training import devices


def _cosine(step: jax.Array, total_steps: jax.Array) -> jax.Array:
  """From 1 at the first step to 0 after the last one."""
  return 0.5 * (1 + jnp.cos(jnp.pi * step.astype(jnp.float32) / total_steps))


def _softmax_loss(
    logits: jax.Array, batch: resumable.Batch
) -> tuple[jax.Array, jax.Array]:
  losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label'])
  return jnp.sum(losses), jnp.float32(losses.shape[0])


def _sigmoid_loss(
    logits: jax.Array, batch: resumable.Batch
) -> tuple[jax.Array, jax.Array]:
  """One class against the rest; what is -1 does not count."""
  label = batch['label']
  losses = optax.sigmoid_binary_cross_entropy(
      logits, (label > 0).astype(logits.dtype))
  losses = jnp.where(label >= 0, losses, 0.0)
  return jnp.sum(losses), jnp.float32(losses.shape[0])


class Classifier:
  """Fits classifiers on an encoder, each from the same start."""

  def __init__(
      self, subject: subject_lib.Subject, *, momentum: float,
      batch_norm_momentum: float | None = None):
    """Compiles when it is first used.

    Args:
      subject: whose encoder every fit starts from.
      momentum: of SGD.
      batch_norm_momentum: of the encoder; None: as in pretraining. A user's
        own encoder keeps its own.
    """
    config, self._subject = subject.config, subject
    self._num_classes = subject.sources.train.num_classes
    encoder = subject.network.encoder
    if isinstance(encoder, network_lib.resnet.ResNet):
      config = config.copy_and_resolve_references()
      if batch_norm_momentum is not None:
        config.batch_norm_momentum = batch_norm_momentum
      encoder = network_lib.create_encoder(
          config, axis_name=devices.AXIS_NAME)
    loss = (_sigmoid_loss if subject.sources.train.is_multi_label
            else _softmax_loss)
    self._task = finetuning.Task(transfer.Transfer(
        encoder=encoder, head=heads.probe(self._num_classes),
        mean=subject.network.mean, std=subject.network.std,
        axis_name=devices.AXIS_NAME), loss)
    self._trainer = finetuning.Trainer(
        self._task, functools.partial(_make_optimizer, momentum=momentum))
    self._predict = devices.Predict(lambda variables, images: {
        'embedding': self._task.module.apply(variables, images)})

  @functools.cached_property
  def _start(self) -> dict[str, Any]:
    size = config_lib.test_image_size(self._subject.config)
    channels = len(self._subject.network.mean)
    return finetuning.initialize(
        self._task, jax.random.key(self._subject.config.seed),
        jnp.zeros((1, size, size, channels)), self._subject.variables)

  def fit(
      self, source: examples.Source, index: np.ndarray | None, *,
      batch_size: int, total_steps: int, learning_rate: float,
      weight_decay: float = 0.0, what: str, directory: str | None,
  ) -> dict[str, Any]:
    """Trains on random crops and flips, the learning rate falling to 0.

    Args:
      source: labelled examples.
      index: of those to learn from; None: all.
      batch_size: over all devices and processes.
      total_steps: updates.
      learning_rate: the first one.
      weight_decay: times the weights, added to the gradient.
      what: is fitted, for lines of progress.
      directory: where a fit that is cut short goes on; None: nowhere.

    Returns:
      The variables of the encoder and its head.
    """
    config = self._subject.config
    watch = unreadable.Watch(source, config.max_bad_image_share)

    def make_batches(first: int):
      return watch.batches(functools.partial(
          pipeline.create_labelled_dataset, source, config,
          batch_size=batch_size, total_steps=total_steps, seed=config.seed,
          index=index, process_index=jax.process_index(),
          process_count=jax.process_count()), first)

    return self._trainer.fit(
        self._start, make_batches, total_steps=total_steps, what=what,
        directory=directory, settings={
            'learning_rate': learning_rate, 'weight_decay': weight_decay,
            'total_steps': total_steps})

  def score(
      self, variables: dict[str, Any], source: examples.Source,
      index: np.ndarray | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Logits f32[N, C] and labels of centre crops, of `index` or of all."""
    found = features_lib.extract_features(
        self._predict, variables, features_lib.make_batches(
            source, self._subject.config, index=index)())
    return found.embedding, found.label


def _make_optimizer(
    settings: dict[str, jax.Array], *, momentum: float
) -> optax.GradientTransformation:
  return finetuning.sgd(
      settings, momentum=momentum, schedule=functools.partial(
          _cosine, total_steps=settings['total_steps']))

"""What extracting features, and a sweep of linear heads, cost.

Both are measured in turn with what they are compared with, in one process, on
ready-made batches of random images: the input pipeline has its own benchmark.
"""

from collections.abc import Callable
import itertools
import statistics
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax.evaluation import features
from byol_jax.evaluation import linear
from byol_jax.networks import network as network_lib
from byol_jax.training import devices

_CLASSES = 1000


def measure_features(
    config: ml_collections.ConfigDict, windows: int, steps: int
) -> dict[str, Any]:
  """Extraction against a bare loop of the encoder's forward pass.

  Args:
    config: its encoder, at `config.test_image_size` and batches of
      `config.evaluate_batch_size`.
    windows: how often each is timed; medians count.
    steps: batches in a window.

  Returns:
    Images per second of both, and `extraction_over_forward`, of times.
  """
  network, variables = _initialise(config)
  predict = features.make_predict(network)
  replicated = devices.replicate(variables)
  batch = _batch(config, config.evaluate_batch_size)
  batch['mask'] = np.ones(len(batch['index']), bool)
  forward = jax.pmap(
      lambda variables, images: network.apply(
          variables, images, train=False, method='encode'),
      in_axes=(None, 0), devices=jax.local_devices())
  sharded = devices.shard(batch['image'])

  def run_forward() -> None:
    for _ in range(steps):
      outputs = forward(replicated, sharded)
    jax.block_until_ready(outputs)

  def run_extraction() -> None:
    features.extract_features(
        predict, variables, itertools.repeat(batch, steps))

  return _compare(
      {'forward': run_forward, 'extraction': run_extraction}, windows,
      images=steps * config.evaluate_batch_size)


def measure_linear(
    config: ml_collections.ConfigDict, windows: int, steps: int
) -> dict[str, Any]:
  """A sweep of `config.linear.base_learning_rates` against its first alone.

  Args:
    config: its encoder, frozen, with heads of 1000 classes on batches of
      `config.linear.batch_size`.
    windows: how often each is timed; medians count.
    steps: in a window.

  Returns:
    Images per second of both, and `sweep_over_head`, of times.
  """
  network, variables = _initialise(config)
  settings = config.linear
  batch = _batch(config, settings.batch_size)
  size = jax.eval_shape(
      lambda: network.apply(variables, batch['image'], method='encode'))

  def run(rates: tuple[float, ...]) -> Callable[[], None]:
    trainer = linear.ImageTrainer(
        lambda variables, images: network.apply(
            variables, images, train=False, method='encode'),
        total_steps=steps, base_learning_rates=rates,
        batch_size=settings.batch_size, momentum=settings.momentum)
    return lambda: trainer.train(
        variables, lambda _: itertools.repeat(batch, steps),
        held_out=np.zeros(0, np.int32), embedding_size=size.shape[-1],
        num_classes=_CLASSES, seed=0)

  rates = tuple(settings.base_learning_rates)
  return {'heads': len(rates)} | _compare(
      {'head': run(rates[:1]), 'sweep': run(rates)}, windows,
      images=steps * settings.batch_size)


def _initialise(
    config: ml_collections.ConfigDict) -> tuple[network_lib.Network, Any]:
  network = network_lib.create_network(config, None)
  size = config_lib.test_image_size(config)
  variables = jax.jit(network.init)(
      jax.random.key(0), np.zeros((1, size, size, 3), np.float32))
  return network, variables


def _batch(
    config: ml_collections.ConfigDict, count: int) -> dict[str, np.ndarray]:
  rng, size = np.random.default_rng(0), config_lib.test_image_size(config)
  return {
      'image': rng.random((count, size, size, 3), np.float32),
      'index': np.arange(count, dtype=np.int32),
      'label': rng.integers(0, _CLASSES, count, np.int32)}


def _compare(
    runs: dict[str, Callable[[], None]], windows: int, *, images: int
) -> dict[str, Any]:
  """Times two runs in turn, after one of each that compiles."""
  (base, run_base), (other, run_other) = runs.items()
  run_base(), run_other()
  seconds = [(_time(run_base), _time(run_other)) for _ in range(windows)]
  medians = [statistics.median(column) for column in zip(
      *seconds, strict=True)]
  return {
      f'{base}_images_per_second': images / medians[0],
      f'{other}_images_per_second': images / medians[1],
      f'{other}_over_{base}': statistics.median(b / a for a, b in seconds)}


def _time(run: Callable[[], None]) -> float:
  begin = time.perf_counter()
  run()
  return time.perf_counter() - begin

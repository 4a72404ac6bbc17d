"""Tiny pretrained encoders for the tests of exports."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.interchange import pretrained
from byol_jax.networks import network as network_lib

_RECORD = {
    'protocol': 'knn', 'description': 'kNN, k=200',
    'metrics': {'knn/test_top1': 0.4363},
    'settings': {'k': 200, 'temperature': 0.1}, 'data': 'tfds:cifar10',
    'train_split': 'train', 'test_split': 'test', 'num_train_examples': 50_000,
    'num_test_examples': 10_000, 'image_size': 32, 'test_crop_ratio': 0.8,
    'random_init': False, 'step': 3}


def _create_encoder(
    norm: str = 'batch', image_size: int = 32, width: float = 1 / 8,
    encoder: str = 'resnet10', **settings: Any,
) -> pretrained.Pretrained:
  """An encoder every number of which is its own noise."""
  config = config_lib.get_base_config()
  config.encoder, config.encoder_norm = encoder, norm
  config.resnet.update(width=width, **settings)
  config.norm_groups = 8
  config.projector.depth = config.predictor.depth = 0
  config.image_size = image_size
  network = network_lib.create_network(config, None)
  shapes = jax.eval_shape(
      functools.partial(network.init, method='encode'), jax.random.key(0),
      jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
  return pretrained.create(
      config, network, _fill(shapes), step=3, records=(_RECORD,),
      licence='CC0')


def _fill(shapes: Any) -> Any:
  """Every number its own noise."""
  return jax.tree_util.tree_map_with_path(
      functools.partial(_draw, np.random.default_rng(0)), shapes)


def _draw(rng: np.random.Generator, path: Any, leaf: Any) -> np.ndarray:
  """Noise that keeps activations near one and every path in use."""
  name = path[-1].key
  if name == 'kernel':
    stddev = math.prod(leaf.shape[:-1]) ** -0.5
    return rng.normal(0, stddev, leaf.shape).astype('f4')
  low, high = {
      'bias': (-0.5, 0.5), 'mean': (-0.5, 0.5), 'scale': (0.5, 1.0),
      'var': (0.5, 2.0)}[name]
  return rng.uniform(low, high, leaf.shape).astype('f4')


def _create_images(height: int, width: int, count: int = 2) -> np.ndarray:
  """f32[count, height, width, 3] in [0, 1]."""
  return np.random.default_rng(1).uniform(
      size=(count, height, width, 3)).astype('f4')


def _embed(encoder: pretrained.Pretrained, images: np.ndarray) -> np.ndarray:
  """What the encoder itself makes of images."""
  return np.asarray(jax.jit(functools.partial(
      encoder.network.apply, method='encode'))(encoder.variables, images))


@pytest.fixture
def fill():
  """See `_fill`."""
  return _fill


@pytest.fixture
def create_encoder():
  """See `_create_encoder`."""
  return _create_encoder


@pytest.fixture
def create_images():
  """See `_create_images`."""
  return _create_images


@pytest.fixture
def embed():
  """See `_embed`."""
  return _embed


@pytest.fixture
def run_card(monkeypatch):
  """Runs a card's first block of Python in its folder, as a reader would."""
  def run(folder: Any) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    code = (folder / 'README.md').read_text().split('```python\n')[1]
    scope = {}
    exec(code.split('```')[0], scope)  # noqa: S102
    return scope

  return run

"""The networks against the original's, and what a user's encoder may do."""

import json
import math
import pathlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.interchange import deepmind
from byol_jax.networks import network as network_lib
from byol_jax.networks import resnet

NAMES = json.loads((
    pathlib.Path(__file__).parents[1] / 'golden' / 'names.json').read_text())


def _shapes(config, num_classes=None):
  network = network_lib.create_network(config, num_classes)
  size = config.image_size
  return jax.eval_shape(
      network.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))


def _flat(tree):
  return {
      tuple(key.key for key in path): leaf.shape
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize('name, encoder, width', [
    ('ResNet18x1', 'resnet18', 1), ('ResNet50x1', 'resnet50', 1),
    ('ResNet200x2', 'resnet200', 2)])
def test_every_parameter_of_the_original(name, encoder, width):
  """Names and shapes, one to one, heads and classifier included."""
  config = config_lib.get_base_config()
  config.encoder = encoder
  config.resnet.width = float(width)
  config.resnet.projection_shortcut = 'group'
  found = _flat(_shapes(config, 1000)['params'])
  expected = {}
  for path, shape in NAMES[name]['params']:
    module, key = path.rsplit('/', 1)
    if key in ('scale', 'offset'):
      shape = shape[-1:]
    expected[deepmind.parameter_path(module, key)] = tuple(shape)
  assert found == expected
  assert sum(map(math.prod, found.values())) == NAMES[name]['num_params']


@pytest.mark.parametrize('encoder, count', [
    # torchvision's, without the last layer.
    ('resnet18', 11_176_512), ('resnet34', 21_284_672),
    ('resnet50', 23_508_032), ('resnet101', 42_500_160),
    ('resnet152', 58_143_808)])
def test_encoder_has_as_many_parameters_as_torchvisions(encoder, count):
  config = config_lib.get_base_config()
  config.encoder = encoder
  found = _flat(_shapes(config)['params']['encoder'])
  assert sum(map(math.prod, found.values())) == count


@pytest.mark.parametrize('stem, size, expected', [
    ('imagenet', 224, 7), ('cifar', 32, 4), ('stride2', 32, 2)])
@pytest.mark.parametrize('padding', ['torch', 'same'])
def test_resolution_before_pooling(stem, size, expected, padding):
  config = config_lib.get_base_config()
  config.encoder, config.image_size = 'resnet18', size
  config.resnet.update(stem=stem, padding=padding, width=1 / 16)
  network = network_lib.create_network(config, None)

  state = jax.eval_shape(lambda key: network.init_with_output(
      key, jnp.zeros((1, size, size, 3)),
      capture_intermediates=lambda m, _: isinstance(m, resnet.Block),
  )[1]['intermediates'], jax.random.key(0))
  (block,) = state['encoder']['group4_block2']['__call__']
  assert block.shape == (1, expected, expected, 32)


def test_paddings_differ_where_the_original_is_asymmetric():
  """At stride 2, `torch` looks one pixel further up and left than `same`.

  So on a picture moved by one pixel down and right it sees, at each place,
  what `same` sees at the place before.
  """
  picture = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
  moved = jnp.pad(picture, [(0, 0), (1, 0), (1, 0), (0, 0)])[:, :8, :8]
  made = {}
  for padding, images in (('torch', moved), ('same', picture)):
    conv = resnet._conv(
        4, 3, 2, make_conv=nn.Conv, padding=padding, dtype=jnp.float32,
        name=None)
    variables = conv.init(jax.random.key(1), images)
    made[padding] = conv.apply(variables, images)
  np.testing.assert_allclose(
      made['torch'][:, 1:, 1:], made['same'][:, :-1, :-1], atol=1e-5)


def test_zero_gamma_makes_blocks_the_identity():
  config = config_lib.get_base_config()
  config.encoder, config.image_size = 'resnet18', 8
  config.resnet.update(width=1 / 16, stem='cifar', zero_gamma=True)
  config.projector.depth = config.predictor.depth = 0
  network = network_lib.create_network(config, None)
  params = jax.jit(network.init)(
      jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']['encoder']
  for name, block in params.items():
    if name.startswith('group'):
      assert float(jnp.abs(block['norm2']['scale']).max()) == 0.0
      assert float(block['norm1']['scale'].min()) == 1.0


def test_initializer_is_cut_without_correction():
  from byol_jax.networks import initializers
  kernel = initializers.truncated_fan_in(jax.random.key(0), (3, 3, 64, 512))
  fan_in = 3 * 3 * 64
  scaled = np.asarray(kernel) * np.sqrt(fan_in)
  assert np.abs(scaled).max() <= 2.0
  assert scaled.std() == pytest.approx(0.8796, rel=1e-2)


@pytest.mark.parametrize('depth, names', [
    (0, set()), (1, {'dense1'}), (2, {'dense1', 'norm1', 'dense2'}),
    (3, {'dense1', 'norm1', 'dense2', 'norm2', 'dense3'})])
def test_depth_of_heads(tiny_config, tiny_encoder, depth, names):
  tiny_config.predictor.depth = depth
  network = network_lib.create_network(tiny_config, None, tiny_encoder)
  images = jnp.ones((4, 8, 8, 3))
  variables = network.init(jax.random.key(0), images)
  predictor = variables['params'].get('predictor', {})
  assert set(predictor) == names
  if depth:
    assert 'bias' not in predictor[f'dense{depth}']
  outputs = network.apply(variables, images)
  assert outputs.prediction.shape == (4, 8)
  if not depth:
    np.testing.assert_array_equal(outputs.prediction, outputs.projection)


def test_no_projector(tiny_config):
  """Then the predictor is as wide as the embedding."""
  tiny_config.projector.depth = 0
  network = network_lib.create_network(tiny_config, None)
  outputs = jax.eval_shape(
      lambda key, x: network.init_with_output(key, x)[0], jax.random.key(0),
      jnp.zeros((2, 8, 8, 3)))
  assert outputs.embedding.shape == outputs.prediction.shape == (2, 32)


def test_images_are_normalised_inside(tiny_config):
  class Mean(nn.Module):
    """A user's encoder that knows nothing of training."""

    @nn.compact
    def __call__(self, x):
      return jnp.mean(x, axis=(1, 2))

  network = network_lib.create_network(tiny_config, None, Mean())
  mean, std = tiny_config.augment.mean, tiny_config.augment.std
  image = jnp.asarray(mean) + 2 * jnp.asarray(std)
  images = jnp.broadcast_to(image, (2, 8, 8, 3))
  variables = network.init(jax.random.key(0), images)
  embedding = network.apply(variables, images, method='encode')
  np.testing.assert_allclose(embedding, 2.0, rtol=1e-5)


def test_inference_does_not_depend_on_the_batch(tiny_config, tiny_encoder):
  network = network_lib.create_network(tiny_config, 10, tiny_encoder)
  images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
  variables = network.init(jax.random.key(1), images)
  together = network.apply(variables, images)
  alone = network.apply(variables, images[:1])
  np.testing.assert_allclose(
      together.prediction[:1], alone.prediction, atol=1e-6)
  assert together.logits.shape == (4, 10)

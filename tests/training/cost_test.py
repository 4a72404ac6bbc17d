"""The step computes what the method asks for, and little else."""

import jax
from jax import lax
import jax.numpy as jnp
import pytest

from byol_jax import config as config_lib
from byol_jax.networks import convolution
from byol_jax.networks import network as network_lib
from byol_jax.networks import weight_standardization
from byol_jax.training import cost
from byol_jax.training import optimizers
from byol_jax.training import state as state_lib
from byol_jax.training import step as step_lib


def _setup(encoder, size, monkeypatch):
  # As on an accelerator: XLA counts no padding in a convolution, but does in
  # a matrix product over patches.
  monkeypatch.setattr(convolution, 'is_for_cpu', lambda: False)
  config = config_lib.get_base_config()
  config.encoder, config.image_size = encoder, size
  return config, network_lib.create_network(config, 1000)


def test_forward_of_a_resnet50(monkeypatch):
  """The field says 4.1 G multiply-adds; 3.5 % of them fall on padding."""
  config, network = _setup('resnet50', 224, monkeypatch)
  images = jnp.zeros((1, 224, 224, 3))
  variables = jax.eval_shape(network.init, jax.random.key(0), images)
  flops = cost.forward_flops(
      lambda v, x: network.apply(v, x, method='encode'), variables, images)
  assert flops == pytest.approx(2 * 4.09e9, rel=0.04)


def _count(config, network, batch_size):
  """FLOPs of a step as XLA counts them, for each image."""
  tx = optimizers.create_optimizer(config, lambda _: 0.1)
  state = jax.eval_shape(
      lambda: state_lib.create_train_state(network, tx, config))
  train_step = step_lib.make_train_step(
      config, network, tx, lambda _: jnp.float32(0.1), total_steps=10)
  image = jax.ShapeDtypeStruct((batch_size, 224, 224, 3), jnp.float32)
  index = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
  lowered = jax.jit(train_step).lower(
      state, {'views': (image, image), 'index': index, 'label': index})
  return lowered.cost_analysis()['flops'] / batch_size


@pytest.mark.parametrize('encoder', ['resnet18', 'resnet50'])
def test_xla_counts_within_two_percent(encoder, monkeypatch):
  config, network = _setup(encoder, 224, monkeypatch)
  assert _count(config, network, 2) == pytest.approx(
      cost.step_flops(network, config), rel=0.02)


def test_standardising_weights_costs_little(monkeypatch):
  """Of a ResNet-50 with 8 images a device, 0.12 % of the step."""
  config, _ = _setup('resnet50', 224, monkeypatch)
  config.encoder_norm = config.projector_norm = 'group_ws'
  config.predictor_norm = 'group_ws'
  network = network_lib.create_network(config, 1000)
  standardized = _count(config, network, 8)
  monkeypatch.setattr(
      weight_standardization, 'standardize', lambda kernel, _: kernel)
  assert 1.0005 < standardized / _count(config, network, 8) < 1.002


def test_convolution_on_padding_is_no_work():
  conv = lambda lhs, rhs: lax.conv_general_dilated(
      lhs, rhs, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  flops = cost.forward_flops(
      conv, jnp.zeros((2, 2, 2, 3)), jnp.zeros((3, 3, 3, 5)))
  # Each of four places sees the four pixels there are.
  assert flops == 2 * 2 * (4 * 4) * 3 * 5

"""A saved run's encoder as a function of images."""

import math
import subprocess
import sys
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import byol_jax
from byol_jax import config as config_lib
from byol_jax.networks import network as network_lib
from byol_jax.training import checkpoint
from byol_jax.training import optimizers
from byol_jax.training import state as state_lib


class _Mean(nn.Module):

  @nn.compact
  def __call__(self, x):
    return nn.Dense(5)(x.mean(axis=(1, 2)))


def _config():
  config = config_lib.get_base_config()
  config.encoder, config.resnet.stem = 'resnet10', 'cifar'
  config.resnet.width, config.image_size = 1 / 16, 16
  config.projector.hidden_size = config.projector.output_size = 8
  config.predictor.hidden_size = 8
  return config


def _save(workdir, encoder=None):
  """Writes a checkpoint of step 7, every leaf of which is its own noise."""
  config = _config()
  network = network_lib.create_network(config, 3, encoder)
  tx = optimizers.create_optimizer(config, lambda _: 0.0)
  rng = np.random.default_rng(0)

  def fill(leaf):
    scale = math.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.1
    offset = 1.0 if leaf.ndim == 1 else 0.0
    return jnp.asarray(
        offset + scale * rng.normal(size=leaf.shape), leaf.dtype)

  state = jax.tree.map(fill, jax.eval_shape(
      lambda: state_lib.create_train_state(network, tx, config)))
  state = state.replace(step=jnp.int32(7))
  checkpoints = checkpoint.Checkpoints(workdir)
  checkpoints.save(7, state, {
      'config': config_lib.to_dict(config), 'num_classes': 3,
      'custom_encoder': type(encoder).__name__ if encoder else None})
  checkpoints.close()
  return network, state


class EncoderTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.workdir = tempfile.mkdtemp()
    cls.network, cls.state = _save(cls.workdir)
    cls.encode = staticmethod(byol_jax.load_encoder(cls.workdir))
    cls.images = np.random.default_rng(0).uniform(
        size=(3, 16, 16, 3)).astype(np.float32)

  def _expected(self, images):
    return self.network.apply(
        {'params': self.state.online_params,
         'batch_stats': self.state.online_batch_stats},
        images, method='encode')

  def test_equals_the_online_network(self):
    got = self.encode(self.images)
    np.testing.assert_allclose(
        got, self._expected(self.images), rtol=1e-5, atol=1e-5)
    self.assertGreater(np.abs(got).max(), 1e-2)
    self.assertEqual(got.shape, (3, self.encode.embedding_size))
    self.assertEqual(got.dtype, jnp.float32)
    self.assertEqual(self.encode.image_size, 16)
    self.assertEqual(self.encode.step, 7)

  def test_within_jit_vmap_and_grad(self):
    expected = self._expected(self.images)
    np.testing.assert_allclose(
        jax.jit(self.encode)(self.images), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        jax.vmap(self.encode)(self.images[:, None])[:, 0], expected,
        rtol=1e-5, atol=1e-5)
    grad = jax.grad(lambda x: self.encode(x).sum())(jnp.asarray(self.images))
    self.assertGreater(float(jnp.abs(grad).max()), 0)

  def test_within_pmap(self):
    images = np.repeat(self.images, 4, axis=0).reshape(4, 3, 16, 16, 3)
    got = jax.pmap(self.encode)(images)
    np.testing.assert_allclose(
        got.reshape(12, -1), np.repeat(self._expected(self.images), 4, axis=0),
        rtol=1e-5, atol=1e-5)

  def test_other_sizes_and_types(self):
    self.assertEqual(self.encode(np.zeros((2, 24, 20, 3))).shape, (2, 32))
    half = self.encode(jnp.asarray(self.images, jnp.bfloat16))
    self.assertEqual(half.dtype, jnp.float32)

  def test_holds_the_encoder_alone(self):
    for tree in self.encode.variables.values():
      self.assertEqual(list(tree), ['encoder'])

  @parameterized.parameters(
      (np.zeros((1, 16, 16, 3), np.uint8), TypeError, 'divide .* by 255'),
      (np.zeros((16, 16, 3), np.float32), ValueError, r'images\[None\]'),
      (np.zeros((16, 16), np.float32), ValueError, r'shape \(16, 16\)'),
      (np.zeros((1, 3, 16, 16), np.float32), ValueError, 'channels go last'),
      (np.zeros((1, 16, 16, 1), np.float32), ValueError, '1 channels'))
  def test_wrong_images(self, images, error, message):
    with self.assertRaisesRegex(error, message):
      self.encode(images)

  def test_custom_encoder(self):
    workdir = tempfile.mkdtemp()
    network, state = _save(workdir, _Mean())
    with self.assertRaisesRegex(config_lib.ConfigError, '_Mean'):
      byol_jax.load_encoder(workdir)
    encode = byol_jax.load_encoder(workdir, encoder=_Mean())
    self.assertEqual(encode.embedding_size, 5)
    np.testing.assert_allclose(encode(self.images), network.apply(
        {'params': state.online_params}, self.images, method='encode'),
        rtol=1e-5, atol=1e-5)

  def test_no_checkpoint(self):
    with self.assertRaisesRegex(config_lib.ConfigError, 'no checkpoint in'):
      byol_jax.load_encoder(tempfile.mkdtemp())


class ImportTest(absltest.TestCase):

  def test_import_is_lazy(self):
    """Neither TensorFlow nor a device is touched by the import."""
    code = (
        'import sys, byol_jax\n'
        'assert "jax" not in sys.modules\n'
        'from byol_jax import load_encoder\n'
        'assert "tensorflow" not in sys.modules\n'
        'from jax._src import xla_bridge\n'
        'assert not xla_bridge._backends\n')
    subprocess.run([sys.executable, '-c', code], check=True)

  def test_unknown_name(self):
    with self.assertRaises(AttributeError):
      _ = byol_jax.load_decoder


if __name__ == '__main__':
  absltest.main()

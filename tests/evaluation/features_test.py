"""Extraction: every example once, in order, through the frozen network."""

import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import config as config_lib
from byol_jax.evaluation import features
from byol_jax.evaluation import progress
from byol_jax.networks import network as network_lib
from byol_jax.training import state as state_lib


class _Pixels(nn.Module):
  """Embeds an image as its normalised corner pixel; counts its traces."""

  traces = []

  @nn.compact
  def __call__(self, x, *, train=False):
    self.traces.append(x.shape)
    x = nn.BatchNorm(use_running_average=not train)(x)
    return x[:, 0, 0]


def _network(num_classes=None):
  config = config_lib.get_base_config()
  config.projector.hidden_size = config.projector.output_size = 4
  config.predictor.hidden_size = 4
  return network_lib.create_network(config, num_classes, _Pixels())


def _batches(count, batch_size, labelled=True):
  """Example n is an image of n / count; the last batch is filled up."""
  for start in range(0, count, batch_size):
    index = np.arange(start, start + batch_size, dtype=np.int32)
    mask = index < count
    index = np.where(mask, index, -1)
    value = np.where(mask, index / count, 1e9).astype(np.float32)
    batch = {
        'image': np.tile(value[:, None, None, None], (1, 2, 2, 3)),
        'index': index, 'mask': mask}
    yield batch | ({'label': index % 7} if labelled else {})


class FeaturesTest(parameterized.TestCase):

  @parameterized.parameters((37, 8), (32, 8), (3, 8), (37, 6), (5, 1))
  def test_every_example_once_in_order(self, count, batch_size):
    """A ragged last batch, and batches that four devices do not divide."""
    self.assertEqual(jax.local_device_count(), 4)
    network = _network()
    variables = network.init(jax.random.key(0), jnp.zeros((2, 2, 2, 3)))
    got = features.extract_features(
        features.make_predict(network), variables, _batches(count, batch_size))
    np.testing.assert_array_equal(got.index, np.arange(count))
    np.testing.assert_array_equal(got.label, np.arange(count) % 7)
    images = np.tile(
        (np.arange(count, dtype=np.float32) / count)[:, None, None, None],
        (1, 2, 2, 3))
    np.testing.assert_allclose(
        got.embedding, network.apply(variables, images, method='encode'),
        atol=1e-6)
    self.assertIsNone(got.projection)

  def test_rows_are_sorted_by_index(self):
    network = _network()
    variables = network.init(jax.random.key(0), jnp.zeros((2, 2, 2, 3)))
    forward = list(_batches(20, 8))
    predict = features.make_predict(network)
    one = features.extract_features(predict, variables, forward)
    two = features.extract_features(predict, variables, forward[::-1])
    np.testing.assert_array_equal(one.embedding, two.embedding)
    np.testing.assert_array_equal(one.label, two.label)

  def test_without_labels(self):
    network = _network()
    variables = network.init(jax.random.key(0), jnp.zeros((2, 2, 2, 3)))
    got = features.extract_features(
        features.make_predict(network), variables, _batches(5, 4, False))
    self.assertIsNone(got.label)

  def test_all_outputs_and_running_statistics(self):
    network = _network(num_classes=3)
    variables = network.init(jax.random.key(0), jnp.zeros((2, 2, 2, 3)))
    stats = jax.tree.map(lambda x: x + 0.5, variables['batch_stats'])
    variables = {'params': variables['params'], 'batch_stats': stats}
    predict = features.make_predict(
        network, ('embedding', 'projection', 'logits'))
    got = features.extract_features(predict, variables, _batches(9, 4))
    images = np.concatenate([b['image'][b['mask']] for b in _batches(9, 4)])
    expected = network.apply(variables, images)
    for name in ('embedding', 'projection', 'logits'):
      np.testing.assert_allclose(
          getattr(got, name), getattr(expected, name), atol=1e-5)

  def test_network_without_probe_has_no_logits(self):
    network = _network()
    variables = network.init(jax.random.key(0), jnp.zeros((2, 2, 2, 3)))
    predict = features.make_predict(network, ('embedding', 'logits'))
    got = features.extract_features(predict, variables, _batches(4, 4))
    self.assertIsNone(got.logits)

  def test_compiles_once(self):
    network = _network()
    variables = network.init(jax.random.key(0), jnp.zeros((2, 2, 2, 3)))
    predict = features.make_predict(network)
    _Pixels.traces.clear()
    for _ in range(2):
      features.extract_features(predict, variables, _batches(37, 8))
    self.assertLen(_Pixels.traces, 1)

  def test_what_is_found_counts_as_what_is_made(self):
    """Else who resumed at another batch would seem to hang."""
    counted, made = [], list(_batches(37, 8))
    batches = features.SplitBatches(
        'some', len(made), lambda first: iter(made[first:]))
    fetch = mock.Mock(**{'dispatch.side_effect': lambda _, images: lambda: {
        'embedding': images[:, 0, 0]}})
    job = progress.Progress(tempfile.mkdtemp())
    with mock.patch.object(
        features.peers, 'advance',
        lambda doing, count=1: counted.append(count)):
      for kept in 0, 3:
        if kept:
          job.put('part0', {
              'index': np.arange(24, dtype=np.int32),
              'label': np.arange(24, dtype=np.int32) % 7,
              'embedding': np.zeros((24, 3), np.float32), 'next_step': kept})
        found = features.resume_features(fetch, {}, batches, job)
        np.testing.assert_array_equal(found.index, np.arange(37))
        self.assertEqual(sum(counted), 5)
        counted.clear()

  def test_processes_rows_are_joined(self):
    """Two processes of 3 and 2 rows: padded to gather, then cut again."""
    shares = [
        {'index': np.array([0, 2, 4], np.int32),
         'embedding': np.array([[0], [2], [4]], np.float32)},
        {'index': np.array([1, 3], np.int32),
         'embedding': np.array([[1], [3]], np.float32)}]

    def gather(x):
      if not x.ndim:
        return np.array([3, 2])
      other = shares[1]['index' if x.ndim == 1 else 'embedding']
      other = np.concatenate([other, np.zeros_like(other[:1])])
      # By rows of two at once.
      return np.stack([x, other[:2] if len(x) == 2 else other[2:]])

    with mock.patch.object(jax, 'process_count', return_value=2), (
        mock.patch.object(features.agreement, 'gather', gather)), (
            mock.patch.object(features, '_GATHER_ROWS', 2)):
      got = features._gather_processes(shares[0])
    np.testing.assert_array_equal(got['index'], [0, 2, 4, 1, 3])
    np.testing.assert_array_equal(got['embedding'][:, 0], [0, 2, 4, 1, 3])

  def test_nothing_to_extract(self):
    with self.assertRaisesRegex(ValueError, 'no examples'):
      features.extract_features(lambda v, x: {}, {}, [])


class VariablesTest(absltest.TestCase):

  def _state(self, **target):
    return state_lib.TrainState(
        step=0, online_params={'encoder': 'online'},
        online_batch_stats={'encoder': "online's own"}, opt_state=(),
        objective_state={}, **target)

  def test_each_side_has_its_own(self):
    state = self._state(
        target_params={'encoder': 'target'},
        target_batch_stats={'encoder': "target's own"})
    for side, variables in (
        ('online', features.online_variables(state)),
        ('target', features.target_variables(state))):
      self.assertEqual(variables, {
          'params': {'encoder': side},
          'batch_stats': {'encoder': f"{side}'s own"}})

  def test_without_a_target(self):
    state = self._state(target_params={}, target_batch_stats={})
    self.assertIsNone(features.target_variables(state))


if __name__ == '__main__':
  absltest.main()

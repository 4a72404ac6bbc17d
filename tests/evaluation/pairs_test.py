"""Pairs of views: figures against plain NumPy, and which pairs they are of."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import config as config_lib
from byol_jax.data import pipeline
from byol_jax.data import sources
from byol_jax.evaluation import features
from byol_jax.evaluation import pairs
from byol_jax.networks import network as network_lib


def _features(embedding, projection=None, prediction=None, target=None):
  """Of pairs f[N, 2, D]; what is not given is the embedding."""
  def given(rows):
    return embedding if rows is None else rows

  return features.Features(
      embedding, np.arange(len(embedding)), projection=given(projection),
      prediction=given(prediction), target_projection=given(target))


def _random(count=7, size=5, seed=0):
  return np.random.default_rng(seed).normal(size=(count, 2, size))


def _cosine(a, b):
  return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


class FiguresTest(parameterized.TestCase):

  def test_against_loops(self):
    given = _features(*(_random(seed=n) for n in range(4)))
    got = dict(pairs.run(given))
    for name in ('embedding', 'projection'):
      rows = getattr(given, name)
      cosines = np.array([[_cosine(a, b) for b in rows[:, 1]]
                          for a in rows[:, 0]])
      positive = [cosines[i, i] for i in range(7)]
      different = [
          cosines[i, j] for i in range(7) for j in range(7) if i != j]
      self.assertAlmostEqual(
          got[f'pairs/{name}_alignment'],
          np.mean([2 - 2 * c for c in positive]))
      self.assertAlmostEqual(
          got[f'pairs/{name}_uniformity'],
          np.log(np.mean([np.exp(-2 * (2 - 2 * c)) for c in different])))
      for kind, values in (('positive', positive), ('different', different)):
        bars = got[f'pairs/{name}_{kind}_cosines']
        self.assertEqual((bars.low, bars.high), (-1, 1))
        expected = np.zeros(50)
        for value in values:
          expected[int((value + 1) / 0.04)] += 1 / len(values)
        np.testing.assert_allclose(bars.heights, expected)
      both = np.concatenate([rows[:, 0], rows[:, 1]])
      values = np.linalg.eigvalsh(np.cov(both.T))[::-1]
      np.testing.assert_allclose(
          got[f'pairs/{name}_spectrum'].heights, values / values.sum())
    self.assertAlmostEqual(got['pairs/positive_cosine'], np.mean(positive))
    self.assertAlmostEqual(got['pairs/different_cosine'], np.mean(different))
    self.assertAlmostEqual(got['pairs/target_cosine'], np.mean([
        _cosine(given.prediction[i, v], given.target_projection[i, 1 - v])
        for i in range(7) for v in range(2)]))

  @parameterized.parameters(0.0, 0.3)
  def test_collapsed(self, value):
    """Even if all is zero, which has no direction."""
    got = dict(pairs.run(_features(np.full((6, 2, 4), value, np.float32))))
    for name, expected in (
        ('embedding_alignment', 0), ('projection_uniformity', 0),
        ('positive_cosine', 1), ('different_cosine', 1), ('target_cosine', 1)):
      self.assertAlmostEqual(got[f'pairs/{name}'], expected, places=5)
    for kind in ('positive', 'different'):
      heights = got[f'pairs/embedding_{kind}_cosines'].heights
      self.assertEqual(heights[-1], 1)
    self.assertEqual(got['pairs/embedding_spectrum'].heights.sum(), 0)

  def test_orthogonal_images(self):
    rows = np.repeat(np.eye(5)[:, None], 2, axis=1)
    got = dict(pairs.run(_features(rows)))
    self.assertAlmostEqual(got['pairs/embedding_alignment'], 0)
    self.assertAlmostEqual(got['pairs/embedding_uniformity'], -4)

  def test_one_image(self):
    got = dict(pairs.run(_features(_random(count=1))))
    self.assertIn('pairs/embedding_alignment', got)
    self.assertNotIn('pairs/embedding_uniformity', got)
    self.assertNotIn('pairs/different_cosine', got)


class _Pixels(nn.Module):

  @nn.compact
  def __call__(self, x, *, train=False):
    x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.Dense(6)(x[:, 0, 0])


def _config(**fields):
  config = config_lib.get_base_config()
  fields = {
      'data': 'fake:40', 'image_size': 8, 'evaluate_batch_size': 12,
      'batch_size': 20, 'projector.hidden_size': 4,
      'projector.output_size': 4, 'predictor.hidden_size': 4} | fields
  for name, value in fields.items():
    config_lib.set_field(config, name, value)
  return config


class BatchesTest(parameterized.TestCase):

  def _rows(self, config):
    source = sources.create_source(config, 'train')
    batches = list(pairs.make_batches(source, config)())
    mask = np.concatenate([b['mask'] for b in batches])
    return {key: np.concatenate([b[key] for b in batches])[mask]
            for key in ('image', 'index')}

  def test_the_first_of_the_run_whatever_its_batch(self):
    config = _config()
    got = self._rows(config)
    source = sources.create_source(config, 'train')
    expected = list(pipeline.create_train_dataset(
        source, config, total_steps=2).as_numpy_iterator())
    np.testing.assert_array_equal(
        got['index'], np.concatenate([b['index'] for b in expected]))
    for v in range(2):
      np.testing.assert_allclose(
          got['image'][:, v],
          np.concatenate([b['views'][v] for b in expected]), atol=1e-6)
    self.assertLen(set(got['index']), 40)  # none twice

  @parameterized.parameters((12, 1020), (1500, 1024), (512, 1024))
  def test_so_many_of_a_large_source(self, batch_size, expected):
    got = self._rows(_config(
        data='fake:1600', evaluate_batch_size=batch_size))
    self.assertLen(set(got['index']), expected)

  def test_shares_of_two_processes_are_those_of_one(self):
    whole = self._rows(_config())
    with mock.patch.object(jax, 'process_count', lambda: 2):
      shares = []
      for process in range(2):
        with mock.patch.object(jax, 'process_index', lambda p=process: p):
          shares.append(self._rows(_config()))
    index = np.concatenate([share['index'] for share in shares])
    self.assertCountEqual(index, whole['index'])
    images = np.concatenate([share['image'] for share in shares])
    np.testing.assert_array_equal(
        images[np.argsort(index)], whole['image'][np.argsort(whole['index'])])


class PredictTest(parameterized.TestCase):

  @parameterized.parameters(True, False)
  def test_both_networks_with_their_own_statistics(self, has_target):
    config = _config()
    network = network_lib.create_network(config, None, _Pixels())
    images = np.random.default_rng(0).random((40, 2, 8, 8, 3), np.float32)
    online, target = (
        jax.tree.map(lambda x, n=n: x + 0.1 * n, network.init(
            jax.random.key(n), images[:, 0])) for n in (1, 2))
    given = {'online': online, 'target': target if has_target else None}
    predict = pairs.make_predict(network)
    got = features.extract_features(predict, given, [{
        'image': images, 'index': np.arange(40), 'mask': np.full(40, True)}])
    for v in range(2):
      outputs = network.apply(online, images[:, v])
      aim = network.apply(
          target, images[:, v], method='project') if has_target else outputs
      for name, expected in (
          ('embedding', outputs.embedding), ('projection', outputs.projection),
          ('prediction', outputs.prediction),
          ('target_projection', aim.projection)):
        np.testing.assert_allclose(
            getattr(got, name)[:, v], expected, atol=1e-5)

  def test_one_device_equals_four(self):
    config = _config()
    network = network_lib.create_network(config, None, _Pixels())
    source = sources.create_source(config, 'train')
    variables = network.init(jax.random.key(0), jnp.zeros((2, 8, 8, 3)))
    given = {'online': variables, 'target': None}

    def figures():
      return dict(pairs.run(features.extract_features(
          pairs.make_predict(network), given,
          pairs.make_batches(source, config)())))

    four = figures()
    one_device = jax.local_devices()[:1]
    with mock.patch.object(jax, 'local_devices', lambda: one_device):
      with mock.patch.object(jax, 'local_device_count', lambda: 1):
        one = figures()
    for name, value in four.items():
      if isinstance(value, float):
        self.assertAlmostEqual(value, one[name], places=4, msg=name)


if __name__ == '__main__':
  absltest.main()

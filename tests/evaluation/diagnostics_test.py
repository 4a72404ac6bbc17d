"""Effective rank and spread of known matrices; signs of collapse."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from byol_jax import config as config_lib
from byol_jax.evaluation import diagnostics
from byol_jax.evaluation import features


def _spectrum(singular, count=64, size=None, seed=0):
  """Centred rows f32[count, size] with these singular values."""
  rng = np.random.default_rng(seed)
  size = size or len(singular)
  left = rng.normal(size=(count, len(singular)))
  left, _ = np.linalg.qr(left - left.mean(axis=0, keepdims=True))
  right, _ = np.linalg.qr(rng.normal(size=(size, size)))
  return (left * np.asarray(singular)) @ right[:len(singular)]


def _features(embedding, projection=None):
  return features.Features(
      np.asarray(embedding, np.float32),
      np.arange(len(embedding), dtype=np.int32), projection=projection)


class EffectiveRankTest(parameterized.TestCase):

  @parameterized.parameters(1, 2, 7, 16)
  def test_equal_singular_values_count(self, rank):
    rows = _spectrum(np.ones(rank), size=20)
    self.assertAlmostEqual(diagnostics.effective_rank(rows), rank, places=5)

  def test_is_the_exponential_of_the_entropy(self):
    singular = np.array([4.0, 2.0, 1.0, 1.0])
    share = singular / 8
    expected = np.exp(-np.sum(share * np.log(share)))  # 3.36
    self.assertAlmostEqual(
        diagnostics.effective_rank(_spectrum(singular)), expected, places=5)

  def test_shift_and_scale_do_not_matter(self):
    rows = _spectrum([3.0, 2.0, 1.0])
    self.assertAlmostEqual(
        diagnostics.effective_rank(100 * rows + 5.0),
        diagnostics.effective_rank(rows), places=4)

  def test_fewer_rows_than_dimensions(self):
    rows = _spectrum([1.0, 1.0, 1.0], count=8, size=50)
    self.assertAlmostEqual(diagnostics.effective_rank(rows), 3, places=5)

  @parameterized.parameters(0.0, 1.0, 1e4)
  def test_equal_rows_have_none(self, value):
    self.assertEqual(
        diagnostics.effective_rank(np.full((50, 8), value, np.float32)), 0)

  def test_rounding_is_no_direction(self):
    rng = np.random.default_rng(0)
    rows = np.tile(rng.normal(size=(1, 16)).astype(np.float32), (200, 1))
    rows *= 1 + 1e-8 * rng.normal(size=(200, 1)).astype(np.float32)
    self.assertEqual(diagnostics.effective_rank(rows), 0)


class SpreadTest(absltest.TestCase):

  def test_directions_on_the_sphere(self):
    rows = np.random.default_rng(0).normal(size=(20_000, 32))
    self.assertAlmostEqual(diagnostics.spread(rows), 1, delta=0.01)

  def test_one_direction(self):
    rows = np.linspace(1, 2, 50)[:, None] * np.ones((50, 8))
    self.assertAlmostEqual(diagnostics.spread(rows), 0, places=6)


class SignsTest(parameterized.TestCase):

  def test_constant_features(self):
    constant = np.full((100, 16), 0.3, np.float32)
    metrics = dict(diagnostics.run(_features(constant, constant)))
    signs = diagnostics.collapse_signs(
        metrics | {'train/projection_std': 0.001, 'train/embedding_std': 0.0})
    self.assertLen(signs, 4)
    for sign in signs:
      self.assertIn('Likely causes', sign)

  def test_random_features(self):
    rng = np.random.default_rng(0)
    # After a ReLU, as an encoder's embeddings are.
    embedding = np.maximum(rng.normal(size=(500, 64)) + 1, 0)
    projection = rng.normal(size=(500, 32))
    metrics = dict(diagnostics.run(_features(embedding, projection)))
    self.assertEqual(diagnostics.collapse_signs(metrics | {
        'train/embedding_std': metrics['diagnostics/embedding_std'],
        'train/projection_std': metrics['diagnostics/projection_std'],
    }), [])

  @parameterized.parameters(
      # Measured: ResNets 10 to 50, random, with batch statistics.
      (0.327, 0.79, 96.7, 99.4), (0.416, 0.80, 45.4, 66.3),
      (0.739, 0.81, 255.7, 136.0))
  def test_no_alarm_on_random_initialisation(
      self, embedding_std, projection_std, embedding_rank, projection_rank):
    self.assertEqual(diagnostics.collapse_signs({
        'train/embedding_std': embedding_std,
        'train/projection_std': projection_std,
        'diagnostics/embedding_rank': embedding_rank,
        'diagnostics/projection_rank': projection_rank}), [])

  def test_rows_without_these_metrics(self):
    self.assertEqual(diagnostics.collapse_signs({'train/loss': 0.0}), [])

  def test_sentences_do_not_change_with_the_value(self):
    """So that each is said once in a run."""
    one, two = (
        diagnostics.collapse_signs({'train/projection_std': value})
        for value in (0.09, 0.01))
    self.assertEqual(one, two)


class CausesTest(parameterized.TestCase):

  def test_none_for_the_paper(self):
    self.assertEqual(
        diagnostics.likely_causes(config_lib.get_base_config()), [])

  @parameterized.parameters(
      ('predictor.depth', 0, 'without a predictor'),
      ('target', 'online', 'config.target=online'),
      ('target', 'stop_gradient', 'too fast'),
      ('base_tau', 0.0, 'too fast'),
      ('optimizer', 'adamw', 'adamw'),
      ('weight_decay', 0.0, 'weight_decay=0'),
      ('batch_size', 32, '32 images'))
  def test_names_what_is_known_to_collapse(self, name, value, words):
    config = config_lib.get_base_config()
    config_lib.set_field(config, name, value)
    causes = diagnostics.likely_causes(config)
    self.assertLen(causes, 1)
    self.assertIn(words, causes[0])


if __name__ == '__main__':
  absltest.main()

"""Spectrum, effective rank and spread of known matrices."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from byol_jax.evaluation import diagnostics


def _spectrum(singular, count=64, size=None, seed=0):
  """Centred rows f32[count, size] with these singular values."""
  rng = np.random.default_rng(seed)
  size = size or len(singular)
  left = rng.normal(size=(count, len(singular)))
  left, _ = np.linalg.qr(left - left.mean(axis=0, keepdims=True))
  right, _ = np.linalg.qr(rng.normal(size=(size, size)))
  return (left * np.asarray(singular)) @ right[:len(singular)]


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


class SpectrumTest(absltest.TestCase):

  def test_shares_of_known_eigenvalues(self):
    """Squares of the singular values, falling, summing to one."""
    rows = _spectrum([1.0, 3.0, 2.0], size=5)
    np.testing.assert_allclose(
        diagnostics.spectrum(rows + 7.0), np.array([9, 4, 1, 0, 0]) / 14,
        atol=1e-6)

  def test_fewer_rows_than_dimensions(self):
    got = diagnostics.spectrum(_spectrum([2.0, 1.0], count=6, size=50))
    np.testing.assert_allclose(got, [0.8, 0.2, 0, 0, 0, 0], atol=1e-6)

  def test_equal_rows(self):
    np.testing.assert_array_equal(
        diagnostics.spectrum(np.full((9, 4), 0.3, np.float32)), np.zeros(4))


if __name__ == '__main__':
  absltest.main()

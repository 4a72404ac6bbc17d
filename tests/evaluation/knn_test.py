"""kNN against brute force, whatever the blocks, and its rules for ties."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from byol_jax.evaluation import features
from byol_jax.evaluation import knn


def _unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def _brute_force(queries, bank, label, k, temperature, num_classes):
  cosine = _unit(queries.astype(np.float64)) @ _unit(bank.astype(np.float64)).T
  votes = np.zeros((len(queries), num_classes))
  for q, row in enumerate(cosine):
    for n in np.argsort(-row, kind='stable')[:k]:
      votes[q, label[n]] += np.exp(row[n] / temperature)
  return votes


def _features(embedding, label):
  return features.Features(
      embedding.astype(np.float32), np.arange(len(label), dtype=np.int32),
      np.asarray(label, np.int32))


class KnnTest(parameterized.TestCase):

  @parameterized.parameters(
      (1, 0.1), (5, 0.1), (20, 1.0), (200, 0.07), (1000, 0.5))
  def test_equals_brute_force(self, k, temperature):
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(203, 6)), rng.normal(size=(57, 6))
    label = rng.integers(0, 7, 203)
    right = rng.integers(0, 7, 57)
    votes = _brute_force(queries, bank, label, k, temperature, 7)
    metrics = dict(knn.run(
        _features(bank, label), _features(queries, right), k=k,
        temperature=temperature, num_classes=7))
    order = np.argsort(-votes, axis=1, kind='stable')
    self.assertAlmostEqual(
        metrics['knn/test_top1'], np.mean(order[:, 0] == right), places=6)
    self.assertAlmostEqual(
        metrics['knn/test_top5'],
        np.mean((order[:, :5] == right[:, None]).any(axis=1)), places=6)

  @parameterized.parameters((57, 203), (8, 16), (10, 1000), (1, 7), (64, 64))
  def test_blocks_do_not_change_neighbors(self, query_block, bank_block):
    rng = np.random.default_rng(1)
    # Few distinct directions, so that there are many exact ties.
    bank = rng.integers(0, 3, (203, 3)).astype(np.float32) + 0.0
    queries = rng.integers(0, 3, (57, 3)).astype(np.float32)
    whole = knn.find_neighbors(
        queries, bank, 30, query_block=57, bank_block=203)
    blocked = knn.find_neighbors(
        queries, bank, 30, query_block=query_block, bank_block=bank_block)
    np.testing.assert_allclose(blocked[0], whole[0], atol=1e-6)
    if bank_block == 203:
      np.testing.assert_array_equal(blocked[1], whole[1])

  @parameterized.parameters(1, 2, 3, 8, 100)
  def test_of_equal_neighbors_the_lower_row_goes_first(self, bank_block):
    bank = np.array([[0, 1], [1, 0], [2, 0], [4, 0], [0, 3]], np.float32)
    queries = np.array([[1, 0], [0, 2]], np.float32)
    cosine, row = knn.find_neighbors(queries, bank, 4, bank_block=bank_block)
    np.testing.assert_array_equal(row, [[1, 2, 3, 0], [0, 4, 1, 2]])
    np.testing.assert_array_equal(cosine, [[1, 1, 1, 0], [1, 1, 0, 0]])

  def test_of_equal_votes_the_lower_class_wins(self):
    bank = _features(np.array([[1, 0], [1, 0]]), [2, 1])
    for right, top1 in ((1, 1.0), (2, 0.0)):
      test = _features(np.array([[3, 0]]), [right])
      self.assertEqual(dict(knn.run(
          bank, test, k=2, temperature=0.1, num_classes=3)),
          {'knn/test_top1': top1})

  def test_nearer_neighbors_outvote_more_neighbors(self):
    near, far = [1.0, 0.0], [0.6, 0.8]
    bank = _features(np.array([near, far, far]), [0, 1, 1])
    test = _features(np.array([near]), [0])
    # exp(1 / t) against 2 exp(0.6 / t): even at t = 0.4 / log 2 = 0.577.
    for temperature, top1 in ((0.1, 1.0), (0.5, 1.0), (0.65, 0.0)):
      self.assertEqual(dict(knn.run(
          bank, test, k=3, temperature=temperature, num_classes=2)),
          {'knn/test_top1': top1})

  def test_low_temperature_does_not_overflow(self):
    rng = np.random.default_rng(2)
    bank = _features(rng.normal(size=(20, 4)), rng.integers(0, 3, 20))
    metrics = dict(knn.run(bank, bank, k=5, temperature=1e-3, num_classes=3))
    self.assertEqual(metrics['knn/test_top1'], 1.0)

  def test_bank_smaller_than_k(self):
    cosine, row = knn.find_neighbors(
        np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), 200)
    self.assertEqual(cosine.shape, (2, 4))
    np.testing.assert_array_equal(row, [[0, 1, 2, 3]] * 2)


if __name__ == '__main__':
  absltest.main()

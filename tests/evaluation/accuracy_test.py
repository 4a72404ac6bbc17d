"""Metrics against their definitions, written another way."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from sklearn import metrics

from byol_jax import config as config_lib
from byol_jax.evaluation import accuracy


def _devkit(score, truth):
  """VOCevalcls.m of the 2007 kit: truth 1, -1 absent, 0 difficult."""
  order = sorted(range(len(score)), key=lambda i: -score[i])
  true, false, points = 0, 0, []
  for i in order:
    true += truth[i] > 0
    false += truth[i] < 0
    if truth[i]:
      points.append((true / sum(truth > 0), true / (true + false)))
  best = [
      max((p for recall, p in points if recall >= t - 1e-12), default=0.0)
      for t in np.linspace(0, 1, 11)]
  return sum(best) / 11


class MeanPerClassTest(parameterized.TestCase):

  def test_equals_balanced_accuracy(self):
    rng = np.random.default_rng(0)
    label = rng.choice(5, 200, p=[0.5, 0.3, 0.1, 0.1, 0])  # one never occurs
    scores = rng.normal(size=(200, 5)) + 0.8 * np.eye(5)[label]
    scores[:, 4] = -10.0
    self.assertAlmostEqual(
        accuracy.mean_per_class(scores, label),
        metrics.balanced_accuracy_score(label, scores.argmax(axis=1)))

  def test_weighs_classes_and_not_examples(self):
    label = np.array([0] * 9 + [1])
    scores = np.tile([1.0, 0.0], (10, 1))
    self.assertEqual(accuracy.mean_per_class(scores, label), 0.5)


class MeanAveragePrecisionTest(parameterized.TestCase):

  @parameterized.parameters(range(4))
  def test_equals_the_development_kit(self, seed):
    rng = np.random.default_rng(seed)
    target = rng.choice([1, 0, -1], (60, 4), p=[0.2, 0.7, 0.1])
    scores = np.round(rng.normal(size=target.shape) + (target == 1), 1)
    kit = np.array([-1, 1, 0])[target]  # 0 absent, 1 there, -1 difficult
    self.assertAlmostEqual(
        accuracy.mean_average_precision(scores, target),
        np.mean([_devkit(scores[:, c], kit[:, c]) for c in range(4)]))

  def test_by_hand(self):
    """Ranked 1 0 1: precision 1 up to recall .5, 2/3 from .6 to 1."""
    scores = np.array([[3.0], [2.0], [1.0], [9.0]])
    target = np.array([[1], [0], [1], [-1]])
    self.assertAlmostEqual(
        accuracy.mean_average_precision(scores, target),
        (6 * 1 + 5 * 2 / 3) / 11)

  def test_recalls_are_whole_numbers(self):
    """Three of ten found before the first mistake: recalls 0, .1, .2, .3."""
    target = np.array([1] * 3 + [0] * 7 + [1] * 7)[:, None]
    scores = -np.arange(17.0)[:, None]
    self.assertAlmostEqual(
        accuracy.mean_average_precision(scores, target),
        (4 * 1 + 7 * 10 / 17) / 11)

  def test_of_equal_scores_the_earlier_row_goes_first(self):
    equal = np.zeros((2, 1))
    for target, expected in (([[1], [0]], 1.0), ([[0], [1]], 0.5)):
      self.assertAlmostEqual(
          accuracy.mean_average_precision(equal, np.array(target)), expected)

  def test_classes_without_positives_are_left_out(self):
    scores = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
    target = np.array([[1, 0, -1], [0, 0, 0]])
    self.assertEqual(accuracy.mean_average_precision(scores, target), 1.0)
    with self.assertRaisesRegex(config_lib.ConfigError, 'positive'):
      accuracy.mean_average_precision(scores, np.minimum(target, 0))


if __name__ == '__main__':
  absltest.main()

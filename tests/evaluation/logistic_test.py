"""Logistic regression: its minima, its path, and what is chosen on it."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import special
from sklearn import linear_model

from byol_jax import config as config_lib
from byol_jax.evaluation import accuracy
from byol_jax.evaluation import logistic
from byol_jax.evaluation import logistic_fit

_SETTINGS = dict(max_iterations=1000, tolerance=1e-4)


def _draw(count=300, size=8, classes=3, seed=0, noise=2.0):
  """Features like an encoder's: not centred, of unequal spread, correlated."""
  rng = np.random.default_rng(0)
  mix = rng.normal(size=(size, size)) * np.logspace(0, -1.5, size)[:, None]
  centres = rng.normal(size=(classes, size))
  rng = np.random.default_rng(seed + 1)
  share = np.arange(1, classes + 1)
  label = rng.choice(classes, count, p=share / share.sum())
  x = centres[label] + noise * rng.normal(size=(count, size))
  return (x @ mix + 3).astype(np.float32), label.astype(np.int32)


def _draw_multilabel(count=300, size=8, classes=4, seed=0):
  x, _ = _draw(count, size, seed=seed)
  rng = np.random.default_rng(9)
  logits = (x - 3) @ rng.normal(size=(size, classes)) - 0.5
  rng = np.random.default_rng(seed)
  target = (rng.random(logits.shape) < special.expit(logits)).astype(np.int32)
  return x, np.where(rng.random(target.shape) < 0.1, -1, target)


def _gradient(x, target, fit, loss):
  """In float64: of the kernel and of the bias, and the objective's value."""
  x, kernel = x.astype(np.float64), fit.params['kernel'].astype(np.float64)
  logits = x @ kernel + fit.params['bias']
  if loss == 'softmax':
    hot = np.eye(kernel.shape[1])[target]
    residual = special.softmax(logits, axis=1) - hot
    value = -np.sum(hot * special.log_softmax(logits, axis=1))
  else:
    known = target >= 0
    residual = known * (special.expit(logits) - target)
    value = -np.sum(known * special.log_expit((2 * target - 1) * logits))
  return (
      x.T @ residual + fit.l2 * kernel, residual.sum(axis=0),
      value + fit.l2 / 2 * np.sum(kernel ** 2))


def _reference(x, label, l2, test):
  """scikit-learn's, on centred features: the problem is the same."""
  mean = x.mean(axis=0, dtype=np.float64)
  model = linear_model.LogisticRegression(
      C=1 / l2, tol=1e-6, max_iter=10_000).fit(x - mean, label)
  return model, model.decision_function(test - mean)


_softmax = functools.partial(logistic_fit.create_problem, num_classes=3)


class FitTest(parameterized.TestCase):

  @parameterized.parameters(1e-3, 1.0, 1e3)
  def test_equals_scikit_learn(self, l2):
    x, label = _draw()
    fit = logistic_fit.fit(_softmax(x, label), l2, **_SETTINGS)
    self.assertTrue(fit.converged)
    test, _ = _draw(seed=1)
    reference, expected = _reference(x, label, l2, test)
    # Biases are free up to a constant; probabilities are not.
    np.testing.assert_allclose(
        special.softmax(logistic_fit.compute_logits(fit.params, test), axis=1),
        special.softmax(expected, axis=1), atol=1e-3)
    np.testing.assert_allclose(
        fit.params['kernel'], reference.coef_.T,
        atol=2e-3 * np.abs(reference.coef_).max())

  @parameterized.product(l2=(1e-6, 1e-1, 1e4), noise=(2.0, 0.3))
  def test_gradient_is_zero(self, l2, noise):
    """Where classes overlap and where, at .3, they separate."""
    x, label = _draw(noise=noise)
    self._check(x, label, l2, 'softmax', 3)

  @parameterized.parameters(1e-6, 1e-1, 1e4)
  def test_gradient_is_zero_of_several_labels(self, l2):
    self._check(*_draw_multilabel(), l2, 'sigmoid', 4)

  def _check(self, x, target, l2, loss, classes):
    problem = logistic_fit.create_problem(
        x, target, num_classes=classes, loss=loss)
    fit = logistic_fit.fit(problem, l2, **_SETTINGS)
    self.assertTrue(fit.converged)
    zero = logistic_fit.Fit(logistic_fit.zeros(problem), l2, 0, False, 0.0, 0.0)
    begin, end = (_gradient(x, target, f, loss) for f in (zero, fit))
    for first, last in zip(begin[:2], end[:2], strict=True):
      self.assertLess(
          np.linalg.norm(last), 1e-3 * np.linalg.norm(first) + 1e-3)
    self.assertAlmostEqual(fit.objective / end[2], 1, delta=1e-4)

  def test_several_labels_equal_one_against_the_rest(self):
    x, target = _draw_multilabel()
    problem = logistic_fit.create_problem(
        x, target, num_classes=4, loss='sigmoid')
    fit = logistic_fit.fit(problem, 0.5, **_SETTINGS)
    for c in range(4):
      known = target[:, c] >= 0
      reference, expected = _reference(
          x[known], target[known, c], 0.5, x)
      np.testing.assert_allclose(
          fit.params['kernel'][:, c], reference.coef_[0],
          atol=2e-3 * np.abs(reference.coef_).max())
      np.testing.assert_allclose(
          logistic_fit.compute_logits(fit.params, x)[:, c], expected, atol=1e-2)

  def test_a_strong_penalty_leaves_the_share_of_each_class(self):
    x, label = _draw()
    fit = logistic_fit.fit(_softmax(x, label), 1e8, **_SETTINGS)
    p = special.softmax(logistic_fit.compute_logits(fit.params, x), axis=1)
    np.testing.assert_allclose(
        p, np.broadcast_to(np.bincount(label) / len(label), p.shape),
        atol=1e-3)

  def test_more_dimensions_than_examples_and_dead_ones(self):
    x, label = _draw(count=20, size=40)
    x[:, 5] = 2.0
    fit = logistic_fit.fit(_softmax(x, label), 1e-3, **_SETTINGS)
    self.assertTrue(fit.converged)
    np.testing.assert_allclose(fit.params['kernel'][5], 0, atol=1e-4)
    logits = logistic_fit.compute_logits(fit.params, x)
    np.testing.assert_array_equal(np.argmax(logits, axis=1), label)

  def test_says_that_it_has_not_converged(self):
    with self.assertLogs(level='WARNING') as logs:
      fit = logistic_fit.fit(
          _softmax(*_draw()), 1e-3, max_iterations=2, tolerance=1e-4)
    self.assertFalse(fit.converged)
    self.assertEqual(fit.iterations, 2)
    self.assertIn('not converged', logs.output[0])

  @parameterized.named_parameters(
      ('shape', dict(target=np.zeros(3, np.int32)), 'shape'),
      ('class', dict(target=np.full(300, 3, np.int32)), 'from 3 to 3'),
      ('one_class', dict(target=np.ones(300, np.int32)), 'two classes'),
      ('nan', dict(features=np.full((300, 8), np.nan)), 'not finite'))
  def test_refuses(self, bad, message):
    x, label = _draw()
    given = dict(features=x, target=label) | bad
    with self.assertRaisesRegex(config_lib.ConfigError, message):
      _softmax(**given)


class _Memory(dict):
  """Progress that stops the run after so many fits."""

  def __init__(self, stop_after):
    super().__init__()
    self._left = stop_after

  def get(self, key):
    return super().get(key)

  def put(self, key, value):
    if self._left == 0:
      raise KeyboardInterrupt
    self._left -= 1
    self[key] = value


class PathTest(parameterized.TestCase):

  @parameterized.parameters(2.0, 0.3)
  def test_equals_cold_fits_in_fewer_iterations(self, noise):
    problem = _softmax(*_draw(noise=noise))
    strengths = logistic.l2_values()
    path = list(logistic.fit_path(problem, strengths, **_SETTINGS))
    cold = [logistic_fit.fit(problem, l2, **_SETTINGS) for l2 in strengths]
    self.assertTrue(all(f.converged for f in [*path, *cold]))
    np.testing.assert_allclose(
        [f.objective for f in path], [f.objective for f in cold], rtol=1e-5)
    self.assertLess(
        2 * sum(f.iterations for f in path), sum(f.iterations for f in cold))

  def test_converges_where_few_examples_decide(self):
    path = logistic.fit_path(
        _softmax(*_draw(noise=0.01)), logistic.l2_values(), **_SETTINGS)
    self.assertLess(max(f.iterations for f in path), 20)

  def test_strengths_are_the_papers(self):
    values = logistic.l2_values()
    self.assertLen(values, 45)
    np.testing.assert_allclose([values[0], values[-1]], [1e5, 1e-6])
    np.testing.assert_allclose(np.diff(np.log10(values)), -0.25)


class RunTest(parameterized.TestCase):

  def _run(self, draw, metric, classes, progress=None, **overrides):
    splits = [logistic.Split(*draw(seed=seed)) for seed in range(3)]
    return dict(logistic.run(
        *splits, num_classes=classes, metric=metric, progress=progress,
        **dict(strengths=logistic.l2_values(12)) | _SETTINGS | overrides))

  @parameterized.parameters('top1', 'mean_per_class')
  def test_chooses_refits_and_measures(self, metric):
    strengths = (1e3, 1e1, 1e-1, 1e-3)
    figures = self._run(_draw, metric, 3, strengths=strengths)
    train, valid, test = (_draw(seed=seed) for seed in range(3))

    def score(learnt, l2, split):
      _, scores = _reference(*learnt, l2, split[0])
      return accuracy.METRICS[metric](scores, split[1])

    values = [score(train, l2, valid) for l2 in strengths]
    self.assertEqual(figures['logistic/l2'], strengths[np.argmax(values)])
    self.assertAlmostEqual(
        figures[f'logistic/valid_{metric}'], max(values), delta=1e-6)
    both = [np.concatenate(pair) for pair in zip(train, valid, strict=True)]
    self.assertAlmostEqual(
        figures[f'logistic/test_{metric}'],
        score(both, figures['logistic/l2'], test), delta=1e-6)
    self.assertEqual(figures['logistic/not_converged'], 0)

  def test_several_labels(self):
    figures = self._run(_draw_multilabel, 'map', 4)
    _, target = _draw_multilabel(seed=2)
    chance = np.mean((target == 1).sum(axis=0) / (target >= 0).sum(axis=0))
    self.assertGreater(figures['logistic/test_map'], chance + 0.2)
    self.assertLess(figures['logistic/test_map'], 1)

  def test_goes_on_where_it_was_stopped(self):
    whole = self._run(_draw, 'top1', 3)
    progress = _Memory(stop_after=7)
    with self.assertRaises(KeyboardInterrupt):
      self._run(_draw, 'top1', 3, progress)
    self.assertLen(progress, 7)
    kept = dict(progress)
    progress._left = 6  # the path's other five, and the last fit
    self.assertEqual(self._run(_draw, 'top1', 3, progress), whole)
    self.assertLen(progress, 13)
    for key, value in kept.items():
      self.assertIs(progress[key], value)

  def test_counts_fits_that_have_not_converged(self):
    figures = self._run(_draw, 'top1', 3, max_iterations=1)
    self.assertEqual(figures['logistic/not_converged'], 13)


if __name__ == '__main__':
  absltest.main()

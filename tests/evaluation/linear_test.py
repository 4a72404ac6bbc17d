"""The linear probe: one step by hand, what it can learn, what it must not."""

import functools
import itertools
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.evaluation import features
from byol_jax.evaluation import linear


def _softmax(x):
  x = np.exp(x - x.max(axis=1, keepdims=True))
  return x / x.sum(axis=1, keepdims=True)


def _separable(count=2048, classes=4, size=16, seed=0):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, classes, count).astype(np.int32)
  centres = 4 * np.eye(classes, size)
  noise = rng.normal(size=(count, size))
  return (centres[label] + 0.3 * noise).astype(np.float32), label


def _train(embedding, label, **overrides):
  settings = dict(
      num_classes=4, base_learning_rates=(0.2,), num_epochs=10,
      batch_size=256, momentum=0.9, seed=0) | overrides
  weight = settings.pop('weight', np.ones(len(label), np.float32))
  return linear.train_on_features(embedding, label, weight, **settings)


class UpdateTest(parameterized.TestCase):

  def test_steps_equal_nesterov_by_hand(self):
    """g; m <- .9 m + g; w <- w - lr (g + .9 m), without weight decay."""
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(8, 5)).astype(np.float32)
    label = rng.integers(0, 3, 8).astype(np.int32)
    weight = np.array([1, 1, 0, 1, 1, 1, 0, 1], np.float32)
    rates, schedule = (0.5, 0.1), (1.0, 0.7, 0.2)
    heads = linear.create_heads(
        jax.random.key(0), embedding_size=5, num_classes=3, count=2,
        momentum=0.9)
    kernels = np.asarray(heads.params['kernel'], np.float64)
    np.testing.assert_array_equal(kernels[0], kernels[1])
    update = jax.jit(functools.partial(
        linear.update_heads, base_learning_rates=rates, momentum=0.9,
        learning_rate_fn=lambda step: jnp.asarray(schedule)[step]))
    for r, rate in enumerate(rates):
      w, b = kernels[r].copy(), np.zeros(3)
      mw, mb = np.zeros_like(w), np.zeros(3)
      trained = heads
      for factor in schedule:
        softmax = _softmax(embedding @ w + b)
        loss = -np.log(softmax[np.arange(8), label]) @ weight / weight.sum()
        error = softmax - np.eye(3)[label]
        error *= weight[:, None] / weight.sum()
        gw, gb = embedding.T @ error, error.sum(axis=0)
        mw, mb = 0.9 * mw + gw, 0.9 * mb + gb
        w -= rate * factor * (gw + 0.9 * mw)
        b -= rate * factor * (gb + 0.9 * mb)
        trained, losses = update(trained, embedding, label, weight)
        np.testing.assert_allclose(losses[r], loss, rtol=1e-5)
      np.testing.assert_allclose(trained.params['kernel'][r], w, atol=1e-6)
      np.testing.assert_allclose(trained.params['bias'][r], b, atol=1e-6)
      self.assertEqual(int(trained.step), len(schedule))

  def test_learning_rate_scales_with_the_batch_and_ends_at_zero(self):
    rate_fn = linear._make_rate_fn(1024, 100)
    np.testing.assert_allclose(
        [rate_fn(0), rate_fn(50), rate_fn(100)], [4.0, 2.0, 0.0], atol=1e-5)


class TrainOnFeaturesTest(parameterized.TestCase):

  def test_separable_features(self):
    heads = _train(*_separable())
    test, label = _separable(seed=1)
    self.assertGreater(linear.measure(heads, test, label)[0], 0.999)

  def test_noise_stays_at_chance(self):
    rng = np.random.default_rng(0)
    draw = lambda: (rng.normal(size=(4096, 16)).astype(np.float32),
                    rng.integers(0, 4, 4096).astype(np.int32))
    heads = _train(*draw())
    self.assertAlmostEqual(
        linear.measure(heads, *draw())[0], 0.25, delta=0.04)

  def test_is_deterministic(self):
    one, two, other = (
        np.asarray(_train(*_separable(), seed=seed).params['kernel'])
        for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    self.assertFalse(np.array_equal(one, other))

  def test_heads_do_not_touch_each_other(self):
    alone = _train(*_separable(), base_learning_rates=(0.1,))
    among = _train(*_separable(), base_learning_rates=(5.0, 0.1, 0.01))
    np.testing.assert_allclose(
        among.params['kernel'][1], alone.params['kernel'][0], atol=1e-5)

  def test_held_out_examples_are_not_learnt_from(self):
    embedding, label = _separable()
    weight = (np.arange(len(label)) % 2).astype(np.float32)
    spoilt = np.where(weight[:, None] == 1, embedding, 100 - embedding)
    np.testing.assert_array_equal(
        _train(embedding, label, weight=weight).params['kernel'],
        _train(spoilt, label, weight=weight).params['kernel'])

  def test_batch_larger_than_the_split(self):
    embedding, label = _separable(count=40)
    heads = _train(embedding, label, batch_size=1024, num_epochs=50)
    self.assertEqual(int(heads.step), 50)
    self.assertEqual(linear.measure(heads, embedding, label)[0], 1.0)


class TrainOnImagesTest(parameterized.TestCase):

  def _batches(self, embedding, label, size, first):
    for step in itertools.count(first):
      rows = np.arange(step * size, (step + 1) * size) % len(label)
      yield {
          'image': embedding[rows].reshape(-1, 4, 4, 1),
          'label': label[rows], 'index': rows.astype(np.int32)}

  def _train(
      self, embedding, label, held_out=(), size=256, epochs=10,
      make_batches=None, **options):
    trainer = linear.ImageTrainer(
        lambda v, images: v['scale'] * images.reshape(len(images), -1),
        total_steps=epochs * len(label) // size,
        base_learning_rates=(0.2, 0.1), batch_size=size, momentum=0.9)
    self.variables = {'scale': jnp.float32(1.0)}
    return trainer.train(
        self.variables,
        make_batches or functools.partial(
            self._batches, embedding, label, size),
        held_out=np.asarray(held_out, np.int32), embedding_size=16,
        num_classes=4, seed=0, **options)

  def test_learns_on_all_devices(self):
    self.assertEqual(jax.device_count(), 4)
    embedding, label = _separable()
    heads = self._train(embedding, label)
    self.assertEqual(int(heads.step), 80)
    self.assertGreater(linear.measure(heads, embedding, label).min(), 0.999)

  def test_devices_add_up_to_one_batch(self):
    """Four devices' shares, of unequal held-out counts, equal one batch."""
    embedding, label = _separable(count=64)
    held_out = np.arange(10)
    heads = self._train(embedding, label, held_out, size=64, epochs=3)
    expected = linear.create_heads(
        jax.random.key(0), embedding_size=16, num_classes=4, count=2,
        momentum=0.9)
    weight = (np.arange(64) >= 10).astype(np.float32)
    update = jax.jit(functools.partial(
        linear.update_heads, base_learning_rates=(0.2, 0.1), momentum=0.9,
        learning_rate_fn=linear._make_rate_fn(64, 3)))
    for _ in range(3):
      expected, _ = update(expected, embedding, label, weight)
    np.testing.assert_allclose(
        heads.params['kernel'], expected.params['kernel'], atol=1e-6)

  def test_goes_on_where_it_was_cut_short(self):
    embedding, label = _separable(count=128)
    whole = self._train(embedding, label, size=64, epochs=3)

    def stop_at_five(first):
      batches = self._batches(embedding, label, 64, first)
      yield from itertools.islice(batches, 5)
      raise KeyboardInterrupt

    options = dict(
        size=64, epochs=3, save_every_steps=2,
        directory=self.enter_context(tempfile.TemporaryDirectory()))
    with self.assertRaises(KeyboardInterrupt):
      self._train(embedding, label, make_batches=stop_at_five, **options)
    started = []
    resumed = self._train(
        embedding, label, **options, make_batches=lambda first: (
            started.append(first)
            or self._batches(embedding, label, 64, first)))
    self.assertEqual(started, [2])
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)

  def test_variables_of_the_caller_survive(self):
    embedding, label = _separable(count=64)
    self._train(embedding, label, size=64, epochs=1)
    self.assertEqual(float(self.variables['scale']), 1.0)


class ChoiceTest(parameterized.TestCase):

  def test_chooses_on_other_examples(self):
    valid = features.Features(
        *_separable(seed=1)[:1], np.arange(2048, dtype=np.int32),
        _separable(seed=1)[1])
    heads = _train(*_separable(), base_learning_rates=(1e-6, 0.2))
    chosen = linear.choose(heads, valid)
    self.assertEqual(chosen, 1)
    self.assertEqual(linear.choose(heads, None), 0)
    metrics = dict(linear.report(
        heads, chosen, valid, base_learning_rates=(1e-6, 0.2),
        num_classes=4))
    self.assertEqual(metrics['linear/base_learning_rate'], 0.2)
    self.assertGreater(metrics['linear/test_top1'], 0.999)
    self.assertNotIn('linear/test_top5', metrics)

  def test_standardize_uses_train_alone(self):
    rng = np.random.default_rng(0)
    train = (5 + 3 * rng.normal(size=(500, 3))).astype(np.float32)
    train[:, 2] = 7.0
    test = train[:10] + 1
    train_, test_ = linear.standardize(train, test)
    np.testing.assert_allclose(train_.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(train_.std(axis=0), [1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(
        test_[:, :2] - train_[:10, :2],
        np.broadcast_to(1 / train.std(axis=0)[None, :2], (10, 2)), rtol=1e-4)
    np.testing.assert_array_equal(test_[:, 2], 0)

  def test_top5(self):
    heads = linear.Heads(
        jnp.int32(0),
        {'kernel': jnp.eye(8)[None], 'bias': jnp.zeros((1, 8))}, None)
    scores = np.tile(np.arange(8, 0, -1, dtype=np.float32), (8, 1))
    label = np.arange(8, dtype=np.int32)
    self.assertEqual(linear.measure(heads, scores, label)[0], 1 / 8)
    self.assertEqual(linear.measure(heads, scores, label, count=5)[0], 5 / 8)


if __name__ == '__main__':
  absltest.main()

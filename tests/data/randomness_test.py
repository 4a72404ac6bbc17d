"""Order and draws as functions of the position in the run."""

import collections

import numpy as np
import pytest

from byol_jax.data import randomness

import tensorflow as tf  # isort: skip


def _order(num_examples, batch_size, total_steps, start_step=0, seed=0):
  return list(randomness.example_order(
      num_examples=num_examples, batch_size=batch_size, seed=seed,
      start_step=start_step, total_steps=total_steps).as_numpy_iterator())


def test_every_epoch_is_every_example_once_and_batches_straddle():
  order = np.concatenate(_order(10, 4, 10))  # 4 epochs of 10 examples
  epochs = order.reshape(4, 10)
  for epoch in epochs:
    assert sorted(epoch) == list(range(10))
  assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batches_may_be_larger_than_the_source():
  order = np.concatenate(_order(3, 8, 3))
  for epoch in order.reshape(8, 3):
    assert sorted(epoch) == [0, 1, 2]


@pytest.mark.parametrize('start', [1, 2, 5, 9, 10])
def test_starting_anywhere_continues_the_order(start):
  np.testing.assert_array_equal(
      np.reshape(_order(10, 4, 10, start_step=start), [-1, 4]),
      np.reshape(_order(10, 4, 10), [-1, 4])[start:])


def test_order_depends_on_the_seed_only():
  first, again, other = (
      np.stack(_order(50, 10, 5, seed=seed)) for seed in (7, 7, 8))
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def test_all_orders_are_equally_likely():
  order = np.concatenate(_order(3, 3, 3000)).reshape(-1, 3)
  counts = collections.Counter(map(tuple, order))
  assert len(counts) == 6
  # 500 expected of each, give or take 20.
  assert 420 < min(counts.values()) and max(counts.values()) < 580


def _draw(first, rows, seed=0, stream=0):
  return randomness.uniform_draws(
      tf.constant(first, tf.int64), rows, 18, seed=seed,
      stream=stream).numpy()


@pytest.mark.parametrize('first', [0, 5, 2**40])
def test_draws_belong_to_positions_however_they_are_cut(first):
  whole = _draw(first, 12)
  np.testing.assert_array_equal(whole[:4], _draw(first, 4))
  np.testing.assert_array_equal(whole[5:], _draw(first + 5, 7))


def test_draws_are_uniform_and_independent():
  draws = np.concatenate(
      [_draw(0, 4000), _draw(0, 4000, stream=1), _draw(0, 4000, seed=1)], 1)
  assert 0.0 <= draws.min() and draws.max() < 1.0
  np.testing.assert_allclose(draws.mean(0), 0.5, atol=0.025)
  correlation = np.corrcoef(draws.T) - np.eye(draws.shape[1])
  assert np.abs(correlation).max() < 0.08
  assert abs(np.corrcoef(draws[1:, 0], draws[:-1, 0])[0, 1]) < 0.06


@pytest.mark.parametrize('seed', [-1, 2**40, 2**80])
def test_any_seed_will_do(seed):
  assert _draw(0, 2, seed=seed).shape == (2, 18)
  assert sorted(_order(4, 4, 1, seed=seed)[0]) == [0, 1, 2, 3]

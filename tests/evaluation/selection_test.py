"""What settings are chosen on, and how."""

import numpy as np
import pytest

from byol_jax.evaluation import features
from byol_jax.evaluation import progress
from byol_jax.evaluation import selection


def _features(count):
  rows = np.arange(count)
  return features.Features(
      rows[:, None].astype(np.float32), rows.astype(np.int32), rows % 3)


def test_hold_out_is_a_stated_share():
  index = np.arange(1000, 2000)
  held_out = selection.hold_out(index, 0.05, seed=3)
  assert len(set(held_out.tolist())) == 50
  assert np.isin(held_out, index).all()
  np.testing.assert_array_equal(
      held_out, selection.hold_out(index, 0.05, seed=3))
  assert not np.array_equal(held_out, selection.hold_out(index, 0.05, seed=4))
  assert not selection.hold_out(index, 0.0, seed=3).size
  # A share that rounds to nothing still chooses on something.
  assert len(selection.hold_out(index[:10], 0.01, seed=0)) == 1


def test_without_a_validation_split_train_is_cut():
  splits = features.Splits(_features(40), _features(5))
  fitted, valid = selection.separate(splits, 0.25, seed=0)
  assert len(valid.index) == 10 and len(fitted.index) == 30
  assert set(fitted.index) | set(valid.index) == set(range(40))
  for part in fitted, valid:
    np.testing.assert_array_equal(part.embedding[:, 0], part.index)
    np.testing.assert_array_equal(part.label, part.index % 3)


def test_a_validation_split_is_taken():
  splits = features.Splits(_features(40), _features(5), _features(7))
  fitted, valid = selection.separate(splits, 0.25, seed=0)
  assert fitted is splits.train and valid is splits.valid


def test_choose_the_highest_and_of_equals_the_first(tmp_path):
  figures = {'a': 0.1, 'b': float('nan'), 'c': 0.7, 'd': 0.7}
  best = selection.choose(list(figures), figures.get, progress.Progress(None))
  assert best == 'c'
  only = selection.choose(['x'], pytest.fail, progress.Progress(None))
  assert only == 'x'


def test_a_sweep_goes_on_where_it_was(tmp_path):
  asked = []

  def measure(choice):
    if choice == 3 and len(asked) == 3:
      raise KeyboardInterrupt
    asked.append(choice)
    return -abs(choice - 2.2)

  with pytest.raises(KeyboardInterrupt):
    selection.choose(range(5), measure, progress.Progress(tmp_path))
  assert asked == [0, 1, 2]
  asked.append('again')
  assert selection.choose(
      range(5), measure, progress.Progress(tmp_path)) == 2
  assert asked == [0, 1, 2, 'again', 3, 4]


def test_the_chosen_fit_is_not_made_twice(tmp_path):
  made = []

  def fit(choice):
    made.append(choice)
    return 10 * choice

  def choose(grid):
    return selection.choose_fit(
        grid, fit, lambda x: -abs(x - 21), progress.Progress(tmp_path))

  assert choose(range(4)) == (2, 20) and made == [0, 1, 2, 3]
  # All were measured before: only the best is made again.
  made.clear()
  assert choose(range(4)) == (2, 20) and made == [2]
  made.clear()
  assert choose([5]) == (5, 50) and made == [5]

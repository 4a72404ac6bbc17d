"""The benchmark of logistic regression compares like with like."""

import numpy as np

from byol_jax.evaluation import logistic_speed


def test_both_sides_reach_the_same_minima():
  rng = np.random.default_rng(0)
  batch = {
      'image': rng.random((200, 4, 4, 3), np.float32),
      'label': rng.integers(0, 3, 200).astype(np.int32),
      'mask': np.arange(200) < 190}
  figures = logistic_speed.measure([batch], num_classes=3, windows=1)
  assert figures['examples'] == 190
  assert figures['embedding_size'] == 256
  assert figures['not_converged'] == 0
  assert figures['largest_relative_difference'] < 1e-4
  assert 3 * figures['path_iterations'] < figures['cold_iterations']
  assert min(figures['cold_seconds'], figures['path_seconds']) > 0

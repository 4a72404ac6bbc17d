"""The benchmarks of evaluations compare like with like."""

from byol_jax.evaluation import speed


def _config(tiny_config):
  tiny_config.evaluate_batch_size = 16
  tiny_config.linear.batch_size = 16
  return tiny_config


def test_features(tiny_config):
  got = speed.measure_features(_config(tiny_config), windows=2, steps=2)
  assert set(got) == {
      'forward_images_per_second', 'extraction_images_per_second',
      'extraction_over_forward'}
  # Loose, as machines are: the two do the same work but for copies.
  assert 0.3 < got['extraction_over_forward'] < 10


def test_linear(tiny_config):
  got = speed.measure_linear(_config(tiny_config), windows=2, steps=2)
  assert got['heads'] == 5
  assert 0.3 < got['sweep_over_head'] < 10

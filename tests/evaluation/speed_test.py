"""The benchmarks of evaluations compare like with like."""

import jax
import pytest

from byol_jax.evaluation import speed
from byol_jax.networks import network as network_lib


@pytest.fixture
def encoded(monkeypatch):
  """How many images each timed run has encoded; they take 2, 6, 1, 4 s."""
  counts, seconds, rows = [], iter([2.0, 6.0, 1.0, 4.0]), []
  encode = network_lib.encode

  def counting(encoder, images, **kwargs):
    jax.debug.callback(lambda n: rows.append(int(n)), images.shape[0])
    return encode(encoder, images, **kwargs)

  def timed(run):
    jax.effects_barrier()
    rows.clear()
    run()
    jax.effects_barrier()
    counts.append(sum(rows))
    return next(seconds)

  monkeypatch.setattr(network_lib, 'encode', counting)
  monkeypatch.setattr(speed, '_time', timed)
  return counts


def test_features(tiny_config, encoded):
  tiny_config.evaluate_batch_size = 16
  got = speed.measure_features(tiny_config, windows=2, steps=3)
  assert encoded == [48, 48, 48, 48]
  assert got == {
      'forward_images_per_second': 48 / 1.5,
      'extraction_images_per_second': 48 / 5,
      'extraction_over_forward': 3.5}


def test_linear(tiny_config, encoded):
  tiny_config.linear.batch_size = 16
  got = speed.measure_linear(tiny_config, windows=2, steps=3)
  assert encoded == [48, 48, 48, 48]
  assert got == {
      'heads': 5, 'head_images_per_second': 48 / 1.5,
      'sweep_images_per_second': 48 / 5, 'sweep_over_head': 3.5}

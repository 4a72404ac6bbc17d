"""Schedules at their edges, and against the original's."""

import pathlib

import jax
import numpy as np
import pytest

from byol_jax.training import schedules

GOLDEN = np.load(
    pathlib.Path(__file__).parents[1] / 'golden' / 'schedules.npz')


def _learning_rates(steps, **overrides):
  settings = dict(
      base_learning_rate=0.5, batch_size=512, warmup_steps=10,
      total_steps=100) | overrides
  fn = jax.jit(schedules.make_learning_rate_fn(**settings))
  return [float(fn(step)) for step in steps]


def test_learning_rate_at_the_edges():
  first, peak, last, end = _learning_rates([0, 10, 99, 100])
  assert first == 0.0
  assert peak == 1.0  # 0.5 * 512 / 256
  assert 0 < last < 1e-3
  assert end == 0.0


def test_learning_rate_half_way():
  warmup, cosine = _learning_rates([5, 55])
  assert warmup == pytest.approx(0.5)
  assert cosine == pytest.approx(0.5)


def test_learning_rate_without_warmup_starts_at_the_peak():
  assert _learning_rates([0], warmup_steps=0) == [1.0]


def test_learning_rate_of_a_run_that_is_all_warmup():
  rates = _learning_rates([0, 9], total_steps=10)
  assert rates == [0.0, pytest.approx(0.9)]


def test_tau_at_the_edges():
  fn = schedules.make_tau_fn(
      base_tau=0.96, tau_schedule='cosine', total_steps=50)
  assert float(fn(0)) == pytest.approx(0.96, abs=1e-7)
  assert float(fn(25)) == pytest.approx(0.98, abs=1e-7)
  assert float(fn(50)) == 1.0


@pytest.mark.parametrize('base_tau', [0.0, 0.5, 1.0])
def test_constant_tau(base_tau):
  fn = schedules.make_tau_fn(
      base_tau=base_tau, tau_schedule='constant', total_steps=50)
  assert [float(fn(step)) for step in (0, 25, 50)] == [base_tau] * 3


@pytest.mark.parametrize('epochs', [40, 100, 300, 1000])
@pytest.mark.parametrize('batch_size', [4096, 256])
def test_equals_the_original(epochs, batch_size):
  golden = {
      name: GOLDEN[f'e{epochs}_b{batch_size}/{name}'] for name in (
          'steps', 'lr', 'tau', 'max_steps', 'warmup_steps', 'base_lr',
          'base_ema')}
  learning_rate_fn = jax.jit(schedules.make_learning_rate_fn(
      base_learning_rate=float(golden['base_lr']), batch_size=batch_size,
      warmup_steps=int(golden['warmup_steps']),
      total_steps=int(golden['max_steps'])))
  tau_fn = jax.jit(schedules.make_tau_fn(
      base_tau=float(golden['base_ema']), tau_schedule='cosine',
      total_steps=int(golden['max_steps'])))
  peak = float(golden['base_lr']) * batch_size / 256
  np.testing.assert_allclose(
      [learning_rate_fn(s) for s in golden['steps']], golden['lr'],
      rtol=1e-6, atol=2e-7 * peak)
  np.testing.assert_allclose(
      [tau_fn(s) for s in golden['steps']], golden['tau'], rtol=0, atol=2e-7)

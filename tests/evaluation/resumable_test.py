"""Steps of a fit on several devices, far more of them than may wait at once."""

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import all_reduce
from byol_jax.evaluation import resumable
from byol_jax.training import devices

STEPS = 1000


def _step(state, batch):
  """Long enough that the host is far ahead of the devices if it may be."""
  rows = batch['x'] @ state
  for _ in range(100):
    rows = jnp.tanh(rows @ state)
  mean = all_reduce.pmean(jnp.mean(rows), devices.AXIS_NAME)
  return state, mean


def test_a_step_is_dispatched_once_the_one_before_the_last_is_done(
    monkeypatch):
  waited = []
  monkeypatch.setattr(jax, 'block_until_ready', waited.append)

  def p_step(state, batch):
    del batch
    step = int(jax.device_get(state)[0])
    # The loss of a step is its number; there is none before the first.
    assert waited == ([None, *range(step - 1)] if step else [])
    return state + 1, step

  resumable.run_steps(
      p_step, np.zeros(1, np.float32),
      lambda first: iter([{'x': np.zeros(4)}] * 5), total_steps=5, what='a fit')


def test_the_host_does_not_run_ahead_of_the_devices():
  """If it did, devices of a CPU would wait for each other, and be aborted."""
  rng = np.random.default_rng(0)
  batch = {'x': rng.normal(size=(64, 128)).astype(np.float32)}
  state = rng.normal(size=(128, 128)).astype(np.float32) / 12
  found = resumable.run_steps(
      devices.pmap_train_step(_step), state,
      lambda first: iter([batch] * (STEPS - first)), total_steps=STEPS,
      what='a fit')
  np.testing.assert_array_equal(found, state)

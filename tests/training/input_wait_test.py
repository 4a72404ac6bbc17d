"""The share of time in which devices wait for images, and what is said of it.
"""

import threading

import jax
import jax.numpy as jnp
import pytest

from byol_jax.training import input_wait


class _Clock:
  """Seconds pass when they are told to."""

  def __init__(self, monkeypatch):
    self.now = 100.0
    monkeypatch.setattr(input_wait.time, 'monotonic', lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
  return _Clock(monkeypatch)


@pytest.fixture
def wait():
  wait = input_wait.InputWait()
  yield wait
  wait.close()


def _batches(clock, seconds):
  while True:
    clock.now += seconds
    yield None


def _step(wait):
  wait.started({'loss': jnp.zeros(())})
  wait._ended.result()  # it ends at once, at the present time


def test_only_waiting_for_the_batch_counts(wait, clock):
  batches = _batches(clock, 0.5)
  wait.take(batches)
  _step(wait)
  assert wait.take_seconds() == 0.0  # nothing was there to be idle before
  clock.now += 7.0  # an evaluation
  wait.take(batches)
  _step(wait)
  assert wait.take_seconds() == 0.5
  assert wait.take_seconds() == 0.0


def test_a_device_that_is_busy_does_not_wait(wait, clock, monkeypatch):
  batches = _batches(clock, 0.5)
  wait.take(batches)
  step_has_ended = threading.Event()
  monkeypatch.setattr(
      jax, 'block_until_ready', lambda _: step_has_ended.wait())
  wait.started(jnp.zeros(()))
  wait.take(batches)
  wait.started(jnp.zeros(()))
  assert wait.take_seconds() == 0.0
  step_has_ended.set()


def test_from_the_end_of_the_step_on(wait, clock):
  """The host asks for the next batch while the step is under way."""
  batches = iter([None, None])
  wait.take(batches)
  wait.started(jnp.zeros(()))
  next_batch = _until_the_step_has_ended(wait, clock)
  wait.take(next_batch)
  wait.started(jnp.zeros(()))
  assert wait.take_seconds() == pytest.approx(2.0)


def _until_the_step_has_ended(wait, clock):
  wait._ended.result()
  clock.now += 2.0
  yield None


def test_what_is_said(monkeypatch):
  assert 'share the cores' in input_wait.advice(0.234, on_device=False)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  line = input_wait.advice(0.234, on_device=False)
  assert 'wait for images 23 % of the time: --config.augment.device' in line
  assert 'more cores' in input_wait.advice(0.234, on_device=True)

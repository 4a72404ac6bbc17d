"""The benchmark measures what it says it does."""

import pytest

from byol_jax.training import setup as setup_lib
from byol_jax.training import throughput


@pytest.mark.parametrize('what', ['input', 'step', 'loop'])
def test_measures(tiny_config, tiny_encoder, what, capsys):
  setup = setup_lib.set_up(tiny_config, tiny_encoder)
  figures = throughput.MEASURES[what](setup, 2, 3)
  rates = figures[f'{what}_windows']
  assert len(rates) == 2 and min(rates) > 0
  assert min(rates) <= figures[f'{what}_images_per_second'] <= max(rates)
  if what == 'loop':
    assert figures['loop_over_step'] > 0
  if what == 'step':
    assert 1 < figures['xla_over_needed'] < 4
    assert figures['state_megabytes'] < figures['peak_megabytes']
    assert figures['collectives']['all-reduce']['count'] > 1
  assert capsys.readouterr().out == ''
  assert throughput.describe_machine()['num_devices'] == 4


def test_measures_the_update(tiny_config, tiny_encoder):
  setup = setup_lib.set_up(tiny_config, tiny_encoder)
  figures = throughput.MEASURES['update'](setup, 1, 3)
  assert 0 < figures['update_milliseconds']
  assert figures['update_share'] == pytest.approx(
      figures['update_milliseconds'] / figures['step_milliseconds'])


def test_measures_saves(tiny_config, tiny_encoder):
  """The share is of the time between two of them."""
  setup = setup_lib.set_up(tiny_config, tiny_encoder)
  figures = throughput.MEASURES['save'](setup, 2, 3)
  assert figures['steps_between_saves'] == tiny_config.checkpoint_every_steps
  assert figures['save_share'] == pytest.approx(
      figures['save_seconds'] / 4 / figures['step_seconds'])
  assert 0.001 < figures['state_megabytes'] < 1

"""Whether a run may go on with what it is given now."""

import copy
import types

import pytest

from byol_jax import config as config_lib
from byol_jax.data import examples
from byol_jax.training import resume


@pytest.fixture
def note(tiny_config):
  return {'config': config_lib.to_dict(tiny_config), 'num_examples': 64}


@pytest.mark.parametrize('is_multi_label, has_probe, expected', [
    (False, True, 3), (True, True, None), (False, False, 3), (True, False, 3)])
def test_classes_are_noted_as_the_network_has_them(
    tiny_config, is_multi_label, has_probe, expected):
  """Without a probe as ever, so that earlier runs go on."""
  tiny_config.online_probe = has_probe
  source = examples.InMemorySource(
      name='test', num_examples=4, num_classes=3, images=None,
      is_multi_label=is_multi_label)
  setup = types.SimpleNamespace(
      config=tiny_config, encoder=None,
      sources=types.SimpleNamespace(train=source))
  assert resume.first_note(setup)['num_classes'] == expected


def _check(saved, note, accept=False):
  resume._check_same_run(saved, note, 'runs/mine', accept)


def test_the_same(note):
  _check(copy.deepcopy(note), note)


@pytest.mark.parametrize('field, value', [
    ('log_every_steps', 7), ('name', 'x'), ('knn.k', 3),
    ('linear.num_epochs', 2), ('on_nonfinite', 'rewind')])
def test_free_fields_are_told(note, field, value, caplog):
  saved = copy.deepcopy(note)
  config = config_lib.from_dict(saved['config'])
  config_lib.set_field(config, field, value)
  saved['config'] = config_lib.to_dict(config)
  with caplog.at_level('INFO', logger='absl'):
    _check(saved, note)
  assert f'changed since the last save: {field}: {value!r}' in caplog.text


@pytest.mark.parametrize('field, value', [
    ('base_learning_rate', 0.1), ('batch_size', 32), ('seed', 1),
    ('data', 'fake:65'), ('augment.view2.blur_prob', 1.0),
    ('total_steps', 9), ('compute_dtype', 'bfloat16')])
def test_others_bend_the_run_and_must_be_accepted(note, field, value):
  saved = copy.deepcopy(note)
  config = config_lib.from_dict(saved['config'])
  config_lib.set_field(config, field, value)
  saved['config'] = config_lib.to_dict(config)
  with pytest.raises(config_lib.ConfigError) as error:
    _check(saved, note)
  assert f'differ (there, here): {field}: {value!r}, ' in str(error.value)
  assert '--accept_config_changes' in str(error.value)
  _check(saved, note, accept=True)


def test_another_number_of_images(note):
  with pytest.raises(
      config_lib.ConfigError, match='images of fake:64: 63, 64'):
    _check(note | {'num_examples': 63}, note)
  without = copy.deepcopy(note)
  del without['num_examples']  # as earlier versions
  _check(without, note)

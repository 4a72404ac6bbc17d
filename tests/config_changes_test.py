"""Which fields may change between runs."""

import pytest

from byol_jax import config as config_lib
from byol_jax import config_changes


def test_differences():
  one, other = config_lib.get_base_config(), config_lib.get_base_config()
  assert config_changes.differences(one, other) == []
  other.seed, other.knn.k = 1, 20
  assert config_changes.differences(one, other) == [
      'knn.k: 200, 20', 'seed: 0, 1']
  assert config_changes.network_differences(one, other) == []


@pytest.mark.parametrize('field, is_free', [
    ('name', True), ('knn.k', True), ('seed', False), ('batch_size', False),
    ('augment.view1.hue', False), ('knn', False)])
def test_free_fields(field, is_free):
  assert config_changes.is_free(field) == is_free


def test_every_free_field_is_a_field():
  known = config_lib.flatten(config_lib.get_base_config().to_dict())
  for name in config_changes.FREE_FIELDS + config_changes.NETWORK_FIELDS:
    assert any(
        field == name or name.endswith('.') and field.startswith(name)
        for field in known), name


@pytest.mark.parametrize('norms, expected', [
    (('batch', 'batch', 'batch'), ['norm_epsilon']),
    (('none', 'layer', 'none'), ['norm_epsilon']),
    (('none', 'none', 'none'), []),
    (('none', 'none', 'group_ws'), [
        'norm_epsilon', 'norm_groups', 'weight_standardization_epsilon'])])
def test_settings_of_norms_are_of_the_network_that_has_them(norms, expected):
  """Shapes do not show them: a resumed run would go on as another function."""
  config = config_lib.get_base_config()
  config.encoder_norm, config.projector_norm, config.predictor_norm = norms
  other = config.copy_and_resolve_references()
  other.update(
      norm_epsilon=1e-3, norm_groups=8, weight_standardization_epsilon=1e-4)
  lines = config_changes.network_differences(config, other)
  assert [line.split(':')[0] for line in lines] == expected
  # A head of one layer has none to normalise.
  config.predictor.depth = other.predictor.depth = 1
  assert 'norm_groups: 16, 8' not in config_changes.network_differences(
      config, other)

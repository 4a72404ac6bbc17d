"""Names of slices, and what they are."""

import pytest

from byol_jax import config as config_lib
from byol_jax.planning import slices


@pytest.mark.parametrize('name, chips, devices, hosts', [
    ('v2:2x2', 4, 8, 1),
    ('v3:16x16', 256, 512, 64),
    ('v4:2x2x1', 4, 4, 1),
    ('v4:4x4x4', 64, 64, 16),
    ('v5e:1x1', 1, 1, 1),
    ('v5e:2x4', 8, 8, 1),
    ('v5e:4x2', 8, 8, 2),
    ('v5e:8x8', 64, 64, 16),
    ('v5p:2x2x2', 8, 8, 2),
    ('v6e:16x16', 256, 256, 64),
])
def test_counts(name, chips, devices, hosts):
  (found,) = slices.parse_slices([name])
  assert found.name == name
  assert (found.num_chips, found.num_devices, found.num_hosts) == (
      chips, devices, hosts)


def test_several():
  found = slices.parse_slices(['v4:2x2x2', '', ' v5e:8x8', 'v4:2x2x2'])
  assert [s.name for s in found] == ['v4:2x2x2', 'v5e:8x8']


@pytest.mark.parametrize('names, message', [
    ([], 'names no slice'),
    (['v9:2x2'], 'known are v2, v3, v4, v5e, v5p, v6e'),
    (['v4'], 'as v4:2x2x2'),
    (['v4:2x2'], 'v4 has 3 dimensions, as v4:2x2x2'),
    (['v3:2x2x2'], 'v3 has 2 dimensions, as v3:2x2'),
    (['v5e:8-8'], 'as v5e:2x2'),
    (['v4:3x5x7'], "a host's chips, 2x2x1"),
    (['v4:0x2x2'], "a host's chips, 2x2x1"),
    (['v5e:1x2'], "a host's chips, 2x2, or 1x1, or 2x4"),
    (['v5e:16x32'], '512 chips, expected at most the 256'),
])
def test_refusals(names, message):
  with pytest.raises(config_lib.ConfigError) as raised:
    slices.parse_slices(names)
  assert message in str(raised.value)
  assert '\n' not in str(raised.value)

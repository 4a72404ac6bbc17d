"""Seconds by hand."""

import pytest

from byol_jax.planning import collectives
from byol_jax.planning import floor
from byol_jax.planning import slices


def _find(name, **kwargs):
  (where,) = slices.parse_slices([name])
  return floor.find_floor(where, **{
      'flops': 0.0, 'main_memory_bytes': 0.0, 'collectives': (), **kwargs})


def test_arithmetic_and_memory():
  # 197 TFLOP/s and 819 GB/s.
  found = _find('v5e:2x2', flops=197e9, main_memory_bytes=819e6 * 3)
  assert found.arithmetic == pytest.approx(1e-3)
  assert found.memory == pytest.approx(3e-3)
  assert found.seconds == found.memory and found.bound == 'memory'


def test_two_devices_share_a_v3_chip():
  found = _find('v3:2x2', flops=123e9, main_memory_bytes=900e6)
  assert found.arithmetic == pytest.approx(2e-3)
  assert found.memory == pytest.approx(2e-3)


@pytest.mark.parametrize('kind, sent', [
    ('all-reduce', 2 * 3 / 4), ('all-gather', 3 / 4), ('reduce-scatter', 3),
    ('all-to-all', 3 / 4), ('collective-permute', 1)])
def test_interconnect(kind, sent):
  """Over the 200 GB/s that leave each of four chips."""
  found = _find('v5e:2x2', collectives=(
      collectives.Collective(kind, 7, 200_000_000),))
  assert found.interconnect == pytest.approx(sent * 1e-3)
  assert found.bound == 'interconnect'


@pytest.mark.parametrize('kind, sent', [
    ('all-reduce', 2 * 3 / 4), ('all-gather', 3 / 4),
    ('reduce-scatter', 8 * 3 / 4)])
def test_only_a_group_s_chips_send(kind, sent):
  """Eight devices are four chips of the 256; one's result is an eighth."""
  found = _find('v3:16x16', collectives=(
      collectives.Collective(kind, 7, 328_000_000, tuple(range(8))),))
  assert found.interconnect == pytest.approx(sent * 1e-3)


def test_both_devices_of_a_chip_send_to_the_other_hosts():
  """Each is in a group of 64, one of every host."""
  found = _find('v3:16x16', collectives=(
      collectives.Collective(
          'all-reduce', 1, 328_000_000, tuple(range(0, 512, 8))),))
  assert found.interconnect == pytest.approx(2 * 2 * 63 / 64 * 1e-3)


@pytest.mark.parametrize('kind', collectives.KINDS)
def test_one_chip_needs_no_links(kind):
  one = (collectives.Collective(kind, 1, 10**9),)
  assert _find('v5e:1x1', collectives=one).interconnect == 0


def test_without_a_compile_memory_is_not_known():
  found = _find('v4:2x2x1', flops=275e9, main_memory_bytes=None)
  assert found.memory is None
  assert found.seconds == pytest.approx(1e-3) and found.bound == 'arithmetic'

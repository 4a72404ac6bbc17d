"""The chips' figures agree with what is published of whole pods."""

import itertools

import pytest

from byol_jax.planning import chips


@pytest.mark.parametrize('name, pod_flops', [
    ('v3', 126e15), ('v4', 1.1e18), ('v5e', 50.63e15), ('v6e', 234.9e15)])
def test_peak_of_a_pod(name, pod_flops):
  chip = chips.CHIPS[name]
  assert chip.peak_flops * chip.pod_chips == pytest.approx(
      pod_flops, rel=0.03)


@pytest.mark.parametrize('name, all_reduce', [
    ('v3', 340e12), ('v4', 1.1e15), ('v5e', 51.2e12), ('v6e', 102.4e12)])
def test_all_reduce_bandwidth_of_a_pod(name, all_reduce):
  """What leaves all chips at once; of v4, not all of it is ever reached."""
  chip = chips.CHIPS[name]
  assert chip.link_bandwidth * chip.pod_chips == pytest.approx(
      all_reduce, rel=0.13)


def test_chips_get_faster():
  """In arithmetic and memory; v5e is the smaller sister of v5p."""
  order = [chips.CHIPS[n] for n in ('v2', 'v3', 'v4', 'v5p')]
  for older, newer in itertools.pairwise(order):
    assert older.peak_flops < newer.peak_flops
    assert older.memory_bandwidth < newer.memory_bandwidth
  v5e, v6e = chips.CHIPS['v5e'], chips.CHIPS['v6e']
  assert v6e.peak_flops / v5e.peak_flops == pytest.approx(4.66, abs=0.01)
  assert v6e.memory_bandwidth == pytest.approx(
      2 * v5e.memory_bandwidth, rel=0.01)


def test_usable_memory_is_a_little_less_than_there_is():
  for name, gib in {
      'v2': 8, 'v3': 16, 'v4': 32, 'v5e': 16, 'v5p': 96, 'v6e': 32}.items():
    assert 0.93 < chips.CHIPS[name].usable_bytes / (gib * chips.GIB) < 1

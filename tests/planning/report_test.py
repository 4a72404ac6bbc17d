"""Figures of a slice follow from its program; the table shows them all."""

import pytest

from byol_jax.planning import collectives
from byol_jax.planning import memory
from byol_jax.planning import programs
from byol_jax.planning import report
from byol_jax.planning import slices
from byol_jax.planning import table

_COUNTS = programs.Counts(
    flops_per_image=1e9, state_bytes=400, gradient_bytes=10**6)
_PROGRAM = programs.Program(
    seconds=2.0, flops=4.4e9, bytes_accessed=2e9, main_memory_bytes=819_000_000,
    memory=memory.Memory(
        limit=2**34, state=2**30, batch=2**28, temporaries=2**32, outputs=0,
        code=2**27),
    collectives=(
        collectives.Collective('all-reduce', 3, 10**6),
        collectives.Collective('all-gather', 2, 10**6)))
_REFUSED = programs.Program(seconds=1.0, refusal=memory.Refusal(
    needed=33 * 2**30, limit=2**34))


def _describe(config, program, name='v5e:2x2'):
  (where,) = slices.parse_slices([name])
  return report.describe(
      config, where, _COUNTS, program, total_steps=3600, utilisation=0.5)


def test_rates(tiny_config):
  """16 images over 4 devices; reading 819 MB takes a millisecond."""
  figures = _describe(tiny_config, _PROGRAM)
  assert figures['device_batch_size'] == 4
  assert figures['fits'] and figures['compiled']
  assert figures['xla_flops_per_image'] == pytest.approx(1.1e9)
  assert figures['floor']['bound'] == 'memory'
  assert figures['floor']['arithmetic'] == pytest.approx(4e9 / 197e12)
  at_floor, at_half = figures['at_floor'], figures['at_utilisation']
  assert at_floor['seconds_per_step'] == pytest.approx(1e-3)
  assert at_floor['images_per_second'] == pytest.approx(16e3)
  assert at_floor['hours'] == pytest.approx(1e-3)
  assert at_half['images_per_second'] == pytest.approx(8e3)
  assert at_half['hours'] == pytest.approx(2e-3)
  assert at_half['chip_hours'] == pytest.approx(8e-3)
  assert at_half['host_images_per_second'] == pytest.approx(8e3)
  assert at_half['host_bytes_per_second'] == pytest.approx(
      8e3 * 2 * 8 * 8 * 3 * 4)


def test_each_host_feeds_its_own_chips(tiny_config):
  figures = _describe(tiny_config, _PROGRAM, 'v5e:4x4')
  assert figures['hosts'] == 4
  assert figures['at_floor']['host_images_per_second'] == pytest.approx(
      figures['at_floor']['images_per_second'] / 4)


def test_without_a_compile(tiny_config):
  """The gradients must be averaged all the same."""
  figures = _describe(tiny_config, None)
  assert figures['fits'] is None and not figures['compiled']
  assert 'memory' not in figures and 'collectives' not in figures
  assert figures['floor']['memory'] is None
  assert figures['floor']['interconnect'] == pytest.approx(
      2 * 3 / 4 * 1e6 / 200e9)


def test_a_refusal_has_no_speed(tiny_config):
  figures = _describe(tiny_config, _REFUSED)
  assert figures['fits'] is False
  assert figures['memory'] == {
      'limit_bytes': 2**34, 'refused_bytes': 33 * 2**30}
  assert 'floor' not in figures


def _cells(text, label):
  (line,) = [row for row in text.splitlines() if row.startswith(label)]
  return line.removeprefix(label).split()


def test_table(tiny_config):
  text = table.draw([
      _describe(tiny_config, _PROGRAM), _describe(tiny_config, None),
      _describe(tiny_config, _REFUSED, 'v6e:16x16')])
  assert max(map(len, text.splitlines())) <= 100
  assert text.splitlines()[0].split() == ['v5e:2x2', 'v5e:2x2', 'v6e:16x16']
  assert _cells(text, 'fits') == ['yes', '-', 'NO']
  assert _cells(text, '  limit') == ['16', '-', '16']
  assert _cells(text, '  peak') == ['5.88', '-', 'over', '33']
  assert _cells(text, '    batches sent ahead') == ['0.5', '-', '-']
  assert _cells(text, 'collectives of a step, number / MB') == [
      '5', '/', '2', '-', '-']
  assert _cells(text, '  memory, at its bandwidth') == ['1', '-', '-']


def test_more_slices_than_fit_side_by_side(tiny_config):
  text = table.draw([_describe(tiny_config, _PROGRAM)] * 9)
  heads = [line.split() for line in text.splitlines() if 'v5e' in line]
  assert [len(head) for head in heads] == [4, 4, 1]

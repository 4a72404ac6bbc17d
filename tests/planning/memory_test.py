"""What XLA says when memory does not suffice."""

import pytest

from byol_jax.planning import memory


@pytest.mark.parametrize('message, needed, limit', [
    ('RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
     'for HLO temporaries (32.16G) exceeds available HBM (7.48G).',
     32.16 * 2**30, 7.48 * 2**30),
    ('RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory '
     'in memory space hbm. Used 16.51G of 15.48G hbm. Exceeded hbm capacity '
     'by 1.03G.\n\nTotal hbm usage >= 17.02G:\n',
     16.51 * 2**30, 15.48 * 2**30),
    ('required for HLO temporaries (1.01T) exceeds available HBM (512.50M).',
     1.01 * 2**40, 512.5 * 2**20),
])
def test_refusals_are_read(message, needed, limit):
  refusal = memory.read_refusal(message)
  assert refusal.needed == pytest.approx(needed, abs=1)
  assert refusal.limit == pytest.approx(limit, abs=1)


def test_other_errors_are_not_refusals():
  assert memory.read_refusal('INTERNAL: Mosaic failed to compile') is None
  assert memory.read_refusal('Used 3 of 4 registers') is None


def test_what_is_sent_ahead_counts():
  """Three batches are on a device: the step's, and two that wait."""
  taken = dict(state=100, batch=10, temporaries=50, outputs=1, code=5)
  peak = 100 + 3 * 10 + 50 + 1 + 5
  assert memory.Memory(limit=peak, **taken).peak == peak
  assert memory.Memory(limit=peak, **taken).fits
  assert not memory.Memory(limit=peak - 1, **taken).fits

"""The search finds what a device of known memory holds, in few compiles."""

import pytest

from byol_jax.planning import memory as memory_lib
from byol_jax.planning import programs
from byol_jax.planning import search

_FIXED, _PER_IMAGE = 1000, 10


class _Device:
  """Memory linear in the batch, until XLA recomputes to make room."""

  def __init__(self, limit, room=1.0):
    self.limit, self.room, self.tried = limit, room, []

  def compile(self, batch):
    assert batch not in self.tried
    self.tried.append(batch)
    need = _FIXED + _PER_IMAGE * batch
    if need > self.limit:
      need = max(self.limit, _FIXED + _PER_IMAGE * batch / self.room)
    if need > self.limit:
      return programs.Program(seconds=1.0, refusal=memory_lib.Refusal(
          needed=_PER_IMAGE * batch, limit=self.limit))
    return programs.Program(seconds=1.0, memory=memory_lib.Memory(
        limit=self.limit, state=_FIXED, batch=0, outputs=0, code=0,
        temporaries=need - _FIXED))


def _search(device, first, max_compiles=20, accumulation_steps=1):
  return search.find_largest(
      device.compile, first, accumulation_steps=accumulation_steps,
      max_compiles=max_compiles)


@pytest.mark.parametrize('first', [8, 64, 1000, 5000])
@pytest.mark.parametrize('largest', [8, 72, 80, 1000])
def test_finds_the_largest_where_memory_is_linear(largest, first):
  device = _Device(limit=_FIXED + _PER_IMAGE * (largest + 7))
  found = _search(device, first)
  assert found.largest <= largest < found.too_large
  assert found.too_large - found.largest <= max(8, largest / 32)
  assert found.compiles == len(device.tried) <= 6


@pytest.mark.parametrize('room', [1.3, 2.0, 3.0])
def test_finds_it_beyond_where_recomputation_begins(room):
  device = _Device(limit=_FIXED + _PER_IMAGE * 400, room=room)
  found = _search(device, 64)
  assert found.largest <= 400 * room < found.too_large
  assert found.too_large - found.largest <= 400 * room / 32


def test_is_bounded_and_says_so():
  device = _Device(limit=_FIXED + _PER_IMAGE * 400, room=2.0)
  found = _search(device, 64, max_compiles=4)
  assert found.compiles == len(device.tried) == 4
  assert found.largest <= 800
  assert 'was not tried' in found.say(1) or 'more may' in found.say(1)


def test_nothing_fits():
  found = _search(_Device(limit=_FIXED), 64)
  assert found.largest == 0 and found.too_large == 8
  assert 'no batch that was tried fits; 8 do not' in found.say(4)


def test_batches_divide_into_micro_batches():
  device = _Device(limit=_FIXED + _PER_IMAGE * 500)
  found = _search(device, 100, accumulation_steps=3)
  assert found.grain == 24 and found.largest == 480
  assert all(batch % 24 == 0 for batch in device.tried)
  assert '480 images of a device fit, a batch of 1920; 504 do not' in (
      found.say(4))

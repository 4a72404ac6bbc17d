"""No change of what is saved goes unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.training import checksum
from byol_jax.training import devices

RNG = np.random.default_rng(0)
ARRAYS = {
    'f32': RNG.normal(size=(5, 7)).astype(np.float32),
    'bf16': jnp.asarray(RNG.normal(size=9), jnp.bfloat16),
    'i32': RNG.integers(-9, 9, 6, np.int32), 'scalar': np.int32(3),
    'bool': np.array([True, False, True]), 'empty': np.zeros((0, 3), 'f4')}


def test_against_the_definition():
  """Sum of words, and of words times odd numbers, modulo 2**32."""
  words = ARRAYS['f32'].view(np.uint32).ravel().astype(object)
  expected = [int(sum(words) % 2**32), int(sum(
      word * (2 * i + 1) for i, word in enumerate(words)) % 2**32)]
  assert checksum.checksums({'a': {'b': ARRAYS['f32']}}) == {'a.b': expected}


@pytest.mark.parametrize('name', ['f32', 'bf16', 'i32', 'scalar'])
def test_every_flipped_bit_shows(name):
  before = checksum.checksums(ARRAYS)
  contents = np.asarray(ARRAYS[name])
  for bit in range(8 * contents.nbytes):
    flipped = bytearray(contents.tobytes())
    flipped[bit // 8] ^= 1 << bit % 8
    array = np.frombuffer(bytes(flipped), contents.dtype).reshape(
        contents.shape)
    after = checksum.checksums(ARRAYS | {name: array})
    assert [k for k in before if before[k] != after[k]] == [name], bit


def test_swapped_words_show():
  array = ARRAYS['f32'].copy()
  array[0, 0], array[4, 6] = array[4, 6], array[0, 0]
  (old,), (new,) = (checksum.checksums([x]).values()
                    for x in (ARRAYS['f32'], array))
  assert old[0] == new[0] and old[1] != new[1]


def test_the_same_on_any_number_of_devices():
  assert checksum.checksums(devices.replicate(ARRAYS)) == checksum.checksums(
      jax.device_put(ARRAYS, jax.devices()[1]))

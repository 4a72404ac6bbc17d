"""Sums over four CPU devices: their order, their gradients, elsewhere's."""

import functools
import re

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import all_reduce

DEVICES = 4
# What is fetched from all devices, and what is scattered among them.
SIZES = [5, 3 * all_reduce._FEW + 1]


def _pmap(fn):
  return jax.pmap(fn, axis_name='batch')


def _terms(size, seed=0):
  """A row a device, of magnitudes so unlike that their order shows."""
  rng = np.random.default_rng(seed)
  scale = 10**rng.uniform(-3, 3, (DEVICES, size))
  return np.float32(rng.normal(size=(DEVICES, size)) * scale)


@pytest.mark.parametrize('size', SIZES)
def test_devices_are_added_in_turn(size):
  terms = {'a': _terms(size), 'b': _terms(1, seed=1)[:, 0]}
  found = _pmap(lambda x: all_reduce.psum(x, 'batch'))(terms)
  for name, rows in terms.items():
    in_turn = functools.reduce(np.add, rows)
    for device in range(DEVICES):
      np.testing.assert_array_equal(found[name][device], in_turn)
  # Another order shows in these terms.
  assert (functools.reduce(np.add, terms['a'][::-1])
          != functools.reduce(np.add, terms['a'])).any()


def test_a_mean_is_the_sum_over_the_number_of_devices():
  terms = _terms(7)
  np.testing.assert_array_equal(
      _pmap(lambda x: all_reduce.pmean(x, 'batch'))(terms)[1],
      functools.reduce(np.add, terms) / np.float32(DEVICES))


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('ours, xlas', [
    (all_reduce.psum, lax.psum), (all_reduce.pmean, lax.pmean)])
def test_gradients_are_those_of_xlas_sums(ours, xlas, size):
  """Of a loss that each device weighs by its own numbers, under `vmap`."""
  terms = _terms(size).reshape(DEVICES, 1, -1)
  terms = np.concatenate([terms, -2 * terms], axis=1)
  weights = np.random.default_rng(1).normal(size=terms.shape)

  def gradient(reduce):
    def loss(x, weight):
      total = jax.vmap(lambda row: reduce(row, 'batch'))(x)
      return jnp.sum(jnp.sin(total) * weight)
    return _pmap(jax.grad(loss))(terms, np.float32(weights))

  # XLA adds up the devices of one process in turn, too.
  np.testing.assert_array_equal(gradient(ours), gradient(xlas))


def test_rows_gathered_and_their_gradients():
  rows = _terms(6).reshape(DEVICES, 2, 3)
  weights = np.float32(np.random.default_rng(1).normal(
      size=(DEVICES, 2 * DEVICES, 3)))

  def loss(x, weight):
    everyone = all_reduce.all_gather(x, 'batch')
    return jnp.sum(everyone * weight), everyone

  gradient, everyone = _pmap(jax.grad(loss, has_aux=True))(rows, weights)
  for device in range(DEVICES):
    np.testing.assert_array_equal(everyone[device], rows.reshape(-1, 3))
  # A row's cotangents, of all devices, in turn.
  np.testing.assert_array_equal(
      gradient, functools.reduce(np.add, weights).reshape(rows.shape))


@pytest.mark.parametrize('platform, found, absent', [
    ('cpu', 'all_gather', 'all_reduce'), ('tpu', 'all_reduce', 'all_gather'),
    ('cuda', 'all_reduce', 'all_gather')])
def test_accelerators_keep_their_own_sums(platform, found, absent):
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ('batch',))
  spec = jax.sharding.PartitionSpec('batch')
  mapped = jax.jit(jax.shard_map(
      lambda x: all_reduce.psum(x, 'batch'), mesh=mesh, in_specs=spec,
      out_specs=spec, check_vma=False))
  text = mapped.trace(_terms(5)).lower(
      lowering_platforms=(platform,)).as_text()
  assert found in text
  assert absent not in text


@pytest.mark.parametrize('other', [np.int32(1), jnp.bfloat16(1)])
def test_types_are_not_mixed(other):
  """On a CPU, where they would be one row, digits would be lost."""
  with pytest.raises(ValueError, match='one floating type'):
    _pmap(lambda x: all_reduce.psum((x, other), 'batch'))(_terms(3))


def _needs_a_loop(text):
  """Of each collective outside of loops: whether it needs a loop's result."""
  entry = text[text.index('\nENTRY '):]
  operands, collectives = {}, []
  for name, rest in re.findall(r'(%[\w.-]+) = (.*)', entry):
    operands[name] = re.findall(r'%[\w.-]+', rest)
    if re.search(r' all-(gather|reduce|to-all)\(', rest):
      collectives.append(name)

  def needs(name):
    return 'while' in name or any(map(needs, operands.get(name, ())))
  return [needs(name) for name in collectives]


@pytest.mark.parametrize('last, expected', [(True, True), (False, False)])
def test_a_sum_after_others_needs_their_result(last, expected):
  """The other of the two would hang, or crash, out of a compilation cache."""
  def fn(x, votes):
    _, sums = lax.scan(
        lambda carry, row: (carry, all_reduce.psum(row, 'batch')), 0.0, x)
    sums = jnp.sum(sums, axis=0)
    if last:
      return all_reduce.psum_after(votes, sums, 'batch'), sums
    return all_reduce.psum(votes, 'batch'), sums

  votes = np.float32([[0], [2], [1], [0]])
  mapped = _pmap(fn)
  rows = _terms(18).reshape(DEVICES, 3, 6)
  text = mapped.lower(rows, votes).compile().as_text()
  assert _needs_a_loop(text) == [expected]
  np.testing.assert_array_equal(mapped(rows, votes)[0], [[3]] * DEVICES)

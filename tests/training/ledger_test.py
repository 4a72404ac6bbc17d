"""What the step of a ResNet costs on four CPU devices, and that it stays so."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest

from byol_jax.networks import network as network_lib
from byol_jax.planning import ledger
from byol_jax.training import setup as setup_lib
from byol_jax.training import throughput


@pytest.mark.usefixtures('sums_of_accelerators')
@pytest.mark.parametrize('remat', ['none', 'block'])
def test_collectives_do_not_creep(tiny_config, remat):
  """What is computed again for the gradient is not averaged again."""
  tiny_config.remat = remat
  setup = setup_lib.set_up(tiny_config)
  program = ledger.read_program(throughput.compile_step(setup)[0])
  state = setup.create_abstract_state()
  norms = sum(
      path[-1].key == 'mean' for path, _ in
      jax.tree_util.tree_leaves_with_path(state.online_batch_stats))
  assert norms == 14
  (all_reduce,) = program.collectives
  assert all_reduce.kind == 'all-reduce'
  # Both moments of a layer, of both views, in one; forward through online
  # network and target, which XLA merges to a part, and back. One more for all
  # gradients and metrics, and one for the votes.
  assert all_reduce.count == 32 < 3 * norms
  trained = sum(
      leaf.size * 4 for leaf in jax.tree.leaves(state.online_params))
  assert trained < all_reduce.result_bytes < 1.5 * trained
  # Donated: there is no second state.
  assert program.memory.state == sum(
      leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def test_collectives_do_not_creep_on_a_cpu(tiny_config):
  """One for each layer that is synchronised and each pass through it."""
  tiny_config.remat = 'block'
  program = ledger.read_program(
      throughput.compile_step(setup_lib.set_up(tiny_config))[0])
  counts = {c.kind: c.count for c in program.collectives}
  # 14 layers forward and back, the target's 13 forward, all gradients and
  # metrics, and the votes.
  assert counts == {'all-gather': 14 + 13 + 14 + 1 + 1, 'all-to-all': 1}


@pytest.mark.parametrize('remat', ['norm', 'first_group', 'block'])
def test_remat_gives_the_same_gradients(tiny_config, remat):
  """And keeps less: what `jax.vjp` hands from forward to back."""
  # In float64: of float32, small sums of large terms keep few digits.
  with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
    _assert_remat_gives_the_same(tiny_config, remat)


def _assert_remat_gives_the_same(tiny_config, remat):
  tiny_config.compute_dtype = 'float64'
  images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3), jnp.float64)
  variables = jax.tree.map(
      lambda x: x.astype(jnp.float64),
      network_lib.create_encoder(tiny_config).init(jax.random.key(1), images))

  def pull_back(remat, params):
    tiny_config.remat = remat
    encoder = network_lib.create_encoder(tiny_config)
    return jax.vjp(lambda params: encoder.apply(
        variables | {'params': params}, images, train=True,
        mutable=['batch_stats'])[0], params)[1]

  def kept(remat):
    residuals = jax.eval_shape(
        functools.partial(pull_back, remat), variables['params'])
    return sum(leaf.size for leaf in jax.tree.leaves(residuals))

  def gradients(remat):
    return jax.jit(lambda params: pull_back(remat, params)(
        jnp.ones((4, 32))))(variables['params'])

  assert kept('block') < kept('norm') < kept('none')
  assert kept('block') < kept('first_group') < kept('none')
  chex.assert_trees_all_close(
      gradients(remat), gradients('none'), rtol=1e-9, atol=1e-9)

"""Sums over devices, which processes do not change.

A sum of four floats depends on the order of its terms. XLA has a CPU add up the
devices of one process in turn, and those of several round a ring, so a run on
two processes would part from the same run on one at its first step. Here a CPU
fetches the terms and adds them up in turn, however devices are spread over
processes, and the run is the same to the bit. Long sums move as many bytes as
in a ring. TPUs and GPUs keep XLA's: a process there has the devices it has.

Gradients are those of `lax.psum` under `jax.pmap`: the sum of all devices'.
There is no forward mode.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax import flatten_util
from jax import lax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

# Of a sum, for what `jax.remat` is to keep rather than to sum again.
SUM = 'sum_over_devices'

# Values that cost more to scatter and gather than all devices' to fetch.
_FEW = 2**14


def psum(tree: Any, axis_name: str) -> Any:
  """The sum over a mapped axis of every leaf.

  Raises:
    ValueError: if leaves are not all of one floating type.
  """
  types = {jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)}
  if len(types) > 1 or not all(
      jnp.issubdtype(dtype, jnp.floating) for dtype in types):
    raise ValueError(f'expected one floating type, found {sorted(types)}')
  return checkpoint_name(_psum(tree, axis_name), SUM)


def pmean(tree: Any, axis_name: str) -> Any:
  """The mean over a mapped axis of every leaf; see `psum`."""
  count = lax.axis_size(axis_name)
  return jax.tree.map(lambda x: x / count, psum(tree, axis_name))


def psum_after(x: jax.Array, last: Any, axis_name: str) -> jax.Array:
  """The sum over a mapped axis, taken once `last` is there.

  Each device of a CPU comes to the sums of a program by a way of its own, and
  they are told apart by nothing else. XLA keeps them in one order; but in a
  program that it takes from the compilation cache, it forgets to do so between
  the sums within a loop and those outside it. Where neither needs the other's
  result, devices then wait for each other for ever, or crash.

  Args:
    x: a floating array.
    last: a tree of that type, which needs all other sums of the program.
    axis_name: the mapped axis.
  """
  def in_turn(x: jax.Array, last: Any) -> jax.Array:
    return _psum_in_turn((x, last), axis_name=axis_name)[0]

  return lax.platform_dependent(
      x, last, cpu=in_turn, default=lambda x, _: lax.psum(x, axis_name))


def psum_scatter(
    tree: Any, axis_name: str, groups: Sequence[Sequence[int]],
    across: Sequence[Sequence[int]]) -> Any:
  """A share of the sum over a mapped axis of every leaf f[n * r, ...].

  Args:
    tree: of arrays of one floating type.
    axis_name: the mapped axis.
    groups: of n devices each, which hold the sum together: the i-th of a group
      gets rows i * r to (i + 1) * r.
    across: the i-th devices of all groups, for every i.

  Returns:
    Leaves f[r, ...].
  """
  size = len(across)

  def in_turn(tree: Any) -> Any:
    place = lax.axis_index(axis_name) % size
    return jax.tree.map(
        lambda x: x.reshape(size, -1, *x.shape[1:])[place],
        _psum_in_turn(tree, axis_name=axis_name))

  return lax.platform_dependent(
      tree, cpu=in_turn, default=functools.partial(
          psum_scatter_of_xla, axis_name=axis_name, groups=groups,
          across=across))


def psum_scatter_of_xla(
    tree: Any, axis_name: str, groups: Sequence[Sequence[int]],
    across: Sequence[Sequence[int]]) -> Any:
  """`psum_scatter` where it is left to XLA in which order terms are added."""
  tree = lax.psum_scatter(
      tree, axis_name, axis_index_groups=groups, tiled=True)
  if len(groups) == 1:
    return tree
  return lax.psum(tree, axis_name, axis_index_groups=across)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def all_gather(x: jax.Array, axis_name: str) -> jax.Array:
  """All devices' rows in turn: [b, ...] to [devices * b, ...]."""
  return lax.all_gather(x, axis_name, tiled=True)


def _all_gather_forward(
    x: jax.Array, axis_name: str) -> tuple[jax.Array, None]:
  return all_gather(x, axis_name), None


def _all_gather_back(
    axis_name: str, _: None, cotangent: jax.Array) -> tuple[jax.Array]:
  return (lax.platform_dependent(
      cotangent, cpu=functools.partial(_scatter_in_turn, axis_name=axis_name),
      default=functools.partial(
          lax.psum_scatter, axis_name=axis_name, tiled=True)),)


all_gather.defvjp(_all_gather_forward, _all_gather_back)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _psum(tree: Any, axis_name: str) -> Any:
  return lax.platform_dependent(
      tree, cpu=functools.partial(_psum_in_turn, axis_name=axis_name),
      default=functools.partial(lax.psum, axis_name=axis_name))


def _psum_forward(tree: Any, axis_name: str) -> tuple[Any, None]:
  return _psum(tree, axis_name), None


def _psum_back(axis_name: str, _: None, cotangents: Any) -> tuple[Any]:
  return (_psum(cotangents, axis_name),)


_psum.defvjp(_psum_forward, _psum_back)


def _psum_in_turn(tree: Any, *, axis_name: str) -> Any:
  """All leaves at once, whose sums wait for each other on a CPU."""
  count = lax.axis_size(axis_name)
  if count == 1:
    return tree
  flat, unravel = flatten_util.ravel_pytree(tree)
  if flat.size < _FEW:
    return unravel(jnp.sum(lax.all_gather(flat, axis_name), axis=0))
  padded = jnp.pad(flat, (0, -flat.size % count))
  share = _scatter_in_turn(padded, axis_name=axis_name)
  return unravel(lax.all_gather(share, axis_name, tiled=True)[:flat.size])


def _scatter_in_turn(x: jax.Array, *, axis_name: str) -> jax.Array:
  """Device i's share of the sum is part i: [devices * b, ...] to [b, ...]."""
  parts = x.reshape(lax.axis_size(axis_name), -1, *x.shape[1:])
  return jnp.sum(lax.all_to_all(parts, axis_name, 0, 0), axis=0)

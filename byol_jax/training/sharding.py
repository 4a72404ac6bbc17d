"""How the trained part of a state lies on the devices of a host.

A host is a process here: what is said of its devices holds for that process's.

`Replicated`: each device holds all of it, and makes the same update as all
others. `Sharded`: each of a host's devices holds a share of every large kernel,
of its momentum and of its target, and updates that alone (ZeRO, 1910.02054;
for data-parallel TPUs 2004.13336). Gradients are then scattered over a host's
devices instead of averaged on each, and kernels are gathered for the forward
passes: links carry about as many bytes, the optimizer reads and writes an n-th
of them, and the state takes an n-th of the memory.

Outside of the step a state is whole, whichever it is: checkpoints, evaluations
and exports know of none of this.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import jax
from jax import lax
import jax.numpy as jnp
import ml_collections
import optax

from byol_jax import all_reduce
from byol_jax import config as config_lib
from byol_jax.networks import network as network_lib
from byol_jax.training import devices
from byol_jax.training import state as state_lib

# A share has as many rows as a TPU keeps together, or a multiple: others would
# be moved by sums over all devices, of pictures that are mostly zeros.
_TILE_ROWS = 16
# Kernels of fewer values stay whole: they are many, a collective each, and
# little of the memory (docs/performance.md).
_FEW = 2**19
# The fields of a state that lie so, where their leaves are large kernels.
_FIELDS = ('online_params', 'target_params', 'opt_state')


class Layout(Protocol):
  """What a step and its loop ask of `Replicated` and `Sharded` alike.

  `axes` are the `in_axes` and `out_axes` of a split state under pmap. The last
  four are called within a step; trees there are as parameters are, by part, and
  some parts will do.
  """

  axes: Any

  def split(self, state: state_lib.TrainState) -> Any:
    """Makes a whole state, which it consumes, what a mapped step takes."""

  def whole(self, split: Any) -> state_lib.TrainState:
    """The inverse. A step may still take its argument."""

  def shapes(self, state: state_lib.TrainState, num_devices: int) -> Any:
    """Of what `split` gives of it, were all devices of one process."""

  def map(self, train_step: Callable[..., Any]) -> Callable[..., Any]:
    """A step of states, first argument and first result, as one of splits."""

  def unite(self, split: Any) -> state_lib.TrainState:
    """Within a step: the state as it lies on the device."""

  def gather(self, params: Any) -> Any:
    """Whole parameters, for the forward passes."""

  def average(self, grads: Any, others: Any) -> tuple[Any, Any]:
    """Means over devices. Gradients come whole, and lie as parameters then."""

  def norms(self, *trees: Any) -> tuple[Any, ...]:
    """The L2 norm f32[] of each leaf, all of it; as `optax.masked` shows it."""

  def norm(self, *trees: Any) -> tuple[jax.Array, ...]:
    """The L2 norm f32[] of each tree, all of it."""


class Replicated:
  """Every device holds all."""

  axes = None

  def __init__(self, axis_name: str | None = None):
    """`axis_name` is the mapped axis; None: there is one device."""
    self._axis_name = axis_name

  def split(self, state: state_lib.TrainState) -> state_lib.TrainState:
    return state

  def whole(self, split: state_lib.TrainState) -> state_lib.TrainState:
    return split

  def shapes(
      self, state: state_lib.TrainState, num_devices: int
  ) -> state_lib.TrainState:
    del num_devices
    return state

  def unite(self, split: state_lib.TrainState) -> state_lib.TrainState:
    return split

  def map(self, train_step: Callable[..., Any]) -> Callable[..., Any]:
    return train_step

  def gather(self, params: Any) -> Any:
    return params

  def average(self, grads: Any, others: Any) -> tuple[Any, Any]:
    if self._axis_name is None:
      return grads, others
    return all_reduce.pmean((grads, others), self._axis_name)

  def norms(self, *trees: Any) -> tuple[Any, ...]:
    return local_norms(*trees)

  def norm(self, *trees: Any) -> tuple[jax.Array, ...]:
    return tuple(_norm(map(_square, jax.tree.leaves(x))) for x in trees)


class Sharded:
  """Large kernels are split by rows, one share for each device of a host.

  A kernel f32[..., C] is seen as f32[rows, C]. Of n devices, device i has
  f32[rows / n, C], which outside of the step is row i of f32[n, rows / n, C]. A
  split state is (those leaves, all others).
  """

  axes = (0, None)

  def __init__(
      self, state: state_lib.TrainState, *, num_devices: int, per_host: int,
      axis_name: str, used_types: Any):
    """Nothing is moved yet.

    Args:
      state: a whole one, or its shapes.
      num_devices: of all hosts.
      per_host: devices of each host, n; the mapped axis has host after host.
      axis_name: the mapped axis.
      used_types: see `networks.network.used_types`: a kernel is rounded to that
        before it is gathered, as it would be afterwards.
    """
    self._per_host = per_host
    self._axis_name = axis_name
    self._used_types = used_types
    self._shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    self._is_split = jax.tree.map(lambda _: False, state).replace(**{
        field: jax.tree.map(self._can_split, getattr(state, field))
        for field in _FIELDS})
    self._flags = jax.tree.leaves(self._is_split)
    hosts = range(0, num_devices, per_host)
    self._hosts = [list(range(h, h + per_host)) for h in hosts]
    self._across = [[h + i for h in hosts] for i in range(per_host)]

  def _can_split(self, leaf: Any) -> bool:
    rows = leaf.size // leaf.shape[-1] if leaf.ndim > 1 else 1
    return leaf.size >= _FEW and rows % (_TILE_ROWS * self._per_host) == 0

  @property
  def num_split(self) -> int:
    """How many arrays of a state are in shares."""
    return sum(self._flags)

  def _part(self, state: state_lib.TrainState) -> tuple[Any, Any]:
    return _part(jax.tree.leaves(state), self._flags)

  def unite(self, split: tuple[Any, Any]) -> state_lib.TrainState:
    return jax.tree.structure(self._shapes).unflatten(
        _unite(split, self._flags))

  def split(self, state: state_lib.TrainState) -> tuple[Any, Any]:
    def cut(x: jax.Array) -> jax.Array:
      rows = x.reshape(self._per_host, -1, x.shape[-1])
      share = devices.spread_over_host(rows)
      # Whoever still has the state would keep all of it on each device.
      for copy in (x, rows):
        copy.delete()
      return share
    shares, others = self._part(state)
    return tuple(map(cut, shares)), others

  def whole(self, split: tuple[Any, Any]) -> state_lib.TrainState:
    shares, others = split
    shapes, _ = self._part(self._shapes)
    return self.unite((tuple(
        devices.replicate(x).reshape(like.shape)
        for x, like in zip(shares, shapes, strict=True)), others))

  def shapes(
      self, state: state_lib.TrainState, num_devices: int) -> tuple[Any, Any]:
    shares, others = self._part(state)
    return tuple(
        jax.ShapeDtypeStruct(
            (num_devices, x.size // x.shape[-1] // self._per_host,
             x.shape[-1]), x.dtype) for x in shares), others

  def map(self, train_step: Callable[..., Any]) -> Callable[..., Any]:
    def step(split: tuple[Any, Any], *args: Any) -> tuple[Any, Any]:
      state, results = train_step(self.unite(split), *args)
      return self._part(state), results
    return step

  def gather(self, params: Any) -> Any:
    def gather(x: jax.Array, is_split: bool, like: Any, dtype: Any) -> Any:
      if not is_split:
        return x
      whole = lax.all_gather(
          x.astype(dtype), self._axis_name, axis_index_groups=self._hosts,
          tiled=True)
      return whole.reshape(like.shape).astype(x.dtype)
    return jax.tree.map(
        gather, params, *(
            _of_parts(tree, params) for tree in (
                self._is_split.online_params, self._shapes.online_params,
                self._used_types)))

  def average(self, grads: Any, others: Any) -> tuple[Any, Any]:
    grads, treedef = jax.tree.flatten(grads)
    flags = jax.tree.leaves(self._is_split.online_params)
    large, small = _part(grads, flags)
    sums = all_reduce.psum_scatter(
        [x.reshape(-1, x.shape[-1]) for x in large], self._axis_name,
        self._hosts, self._across)
    count = lax.axis_size(self._axis_name)
    small, others = all_reduce.pmean((small, others), self._axis_name)
    return treedef.unflatten(
        _unite(([x / count for x in sums], small), flags)), others

  def norms(self, *trees: Any) -> tuple[Any, ...]:
    return jax.tree.map(jnp.sqrt, self._squares(trees))

  def norm(self, *trees: Any) -> tuple[jax.Array, ...]:
    return tuple(_norm(jax.tree.leaves(x)) for x in self._squares(trees))

  def _squares(self, trees: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sums of squares of all leaves, by one gather over the host's devices."""
    squares, treedef = jax.tree.flatten(jax.tree.map(_square, trees))
    flags = jnp.asarray(jax.tree.leaves(tuple(
        jax.tree.map(
            lambda x, is_split: x if _is_masked(x) else is_split, tree,
            _of_parts(self._is_split.online_params, tree), is_leaf=_is_masked)
        for tree in trees)))
    shares = jnp.stack(squares)
    # Added up in one order on all hosts, which are to make the same update.
    sums = jnp.sum(lax.all_gather(
        shares, self._axis_name, axis_index_groups=self._hosts), axis=0)
    return treedef.unflatten(list(jnp.where(flags, sums, shares)))


def create_layout(
    config: ml_collections.ConfigDict, network: network_lib.Network,
    create_abstract_state: Callable[[], state_lib.TrainState], *,
    axis_name: str, num_devices: int, per_host: int) -> Layout:
  """What `config.shard_state` asks for, where there is anything to split.

  Args:
    config: of the run.
    network: an unbound module.
    create_abstract_state: returns the shapes of a whole one.
    axis_name: the mapped axis, whose devices are in the order of their hosts.
    num_devices: of all hosts.
    per_host: of each host.

  Raises:
    ConfigError: if hosts cannot have equally many.
  """
  replicated = Replicated(axis_name)
  if not config.shard_state or per_host == 1:
    return replicated
  if num_devices % per_host:
    raise config_lib.ConfigError(
        f'config.shard_state: this process has {per_host} of {num_devices} '
        'devices, expected as many in each process')
  state = create_abstract_state()
  sharded = Sharded(
      state, axis_name=axis_name, num_devices=num_devices, per_host=per_host,
      used_types=network_lib.used_types(
          network, config, state.online_params))
  return sharded if sharded.num_split else replicated


def local_norms(*trees: Any) -> tuple[Any, ...]:
  """The L2 norm f32[] of each leaf, of what a device has of it."""
  return jax.tree.map(lambda x: jnp.sqrt(_square(x)), trees)


def _part(
    leaves: Sequence[Any], flags: Sequence[bool]) -> tuple[Any, Any]:
  """Those with a flag, and those without."""
  pairs = list(zip(leaves, flags, strict=True))
  return tuple(x for x, flag in pairs if flag), tuple(
      x for x, flag in pairs if not flag)


def _unite(parts: tuple[Any, Any], flags: Sequence[bool]) -> list[Any]:
  """The inverse of `_part`."""
  flagged, others = map(iter, parts)
  return [next(flagged if flag else others) for flag in flags]


def _of_parts(tree: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
  """Of what is said of all parameters, what is of the parts in `params`."""
  return {part: tree[part] for part in params}


def _square(x: jax.Array) -> jax.Array:
  return jnp.sum(lax.square(x))


def _norm(squares: Iterable[jax.Array]) -> jax.Array:
  return jnp.sqrt(sum(squares))


def _is_masked(x: Any) -> bool:
  return isinstance(x, optax.MaskedNode)

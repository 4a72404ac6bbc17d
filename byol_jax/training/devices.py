"""Devices: the one place that knows pmap.

State is replicated without a device axis (`in_axes=None`, `out_axes=None`), so
checkpoints, probes and exports take it as it is; but for what
`sharding.Sharded` splits while steps are taken. `out_axes=None` trusts the step
to give every device the same result; a test holds it to that.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax import lax
from jax.experimental import multihost_utils
import numpy as np

from byol_jax import all_reduce
from byol_jax import peers

AXIS_NAME = 'batch'


def _sharding(*spec: str) -> jax.sharding.NamedSharding:
  """Over this process's devices, which is what pmap takes its inputs on."""
  mesh = jax.sharding.Mesh(np.asarray(jax.local_devices()), (AXIS_NAME,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))


def replicated_sharding() -> jax.sharding.NamedSharding:
  """A full copy on each of this process's devices."""
  return _sharding()


def replicate(tree: Any) -> Any:
  """Puts a copy of every leaf on each of this process's devices."""
  return jax.device_put(tree, replicated_sharding())


def spread_over_host(tree: Any) -> Any:
  """Puts row i of leaves [devices, ...] on device i of this process's."""
  return jax.device_put(tree, _sharding(AXIS_NAME))


def _global_sharding(*spec: str) -> jax.sharding.NamedSharding:
  """Over all processes' devices."""
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()), (AXIS_NAME,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))


def everywhere() -> jax.sharding.NamedSharding:
  """A full copy on each device of all processes."""
  return _global_sharding()


def spread(images: np.ndarray) -> jax.Array:
  """Every process's rows as one array over all devices, for `jax.jit`.

  Args:
    images: this process's [b, ...], a multiple of its devices.

  Returns:
    [processes * b, ...].
  """
  return jax.make_array_from_process_local_data(
      _global_sharding(AXIS_NAME), images)


def join(tree: Any) -> Any:
  """Copies on this process's devices, as arrays over all processes' devices.

  Nothing is copied: orbax takes only the latter where there are several
  processes, and a step only the former. `localize` is the inverse.
  """
  return _with_sharding(tree, everywhere())


def localize(tree: Any) -> Any:
  """Takes this process's copies of every leaf that lies `everywhere`.

  Those that this process has made for itself are copied to all its devices.
  """
  if jax.process_count() == 1:
    return tree
  local = replicated_sharding()
  return jax.tree.map(
      lambda x: jax.device_put(x, local) if x.is_fully_addressable else
      _with_sharding(x, local), tree)


def _with_sharding(tree: Any, sharding: jax.sharding.NamedSharding) -> Any:
  if jax.process_count() == 1:
    return tree

  def rewrap(x: jax.Array) -> jax.Array:
    return jax.make_array_from_single_device_arrays(
        x.shape, sharding, [shard.data for shard in x.addressable_shards])
  return jax.tree.map(rewrap, tree)


def shard(batch: Any) -> Any:
  """Splits leaves [B, ...] to [devices, B / devices, ...], one row a device.

  Raises:
    ValueError: if B is not a multiple of the number of local devices.
  """
  count = jax.local_device_count()
  return spread_over_host(jax.tree.map(
      lambda x: np.reshape(x, (count, -1, *x.shape[1:])), batch))


def first_rows(batch: Any, count: int) -> Any:
  """Leaves [devices, b, ...], as `shard` gives, to the host's [n, ...].

  Their first rows, in the order of this process's batch: `count`, or all if
  there are fewer. No others leave their device.
  """
  def find(x: jax.Array) -> list[jax.Array]:
    parts = -(-count // x.shape[1])
    return [
        lax.slice_in_dim(part.data, 0, min(count, x.shape[1]), axis=1)
        for part in x.addressable_shards[:parts]]

  parts = jax.device_get(jax.tree.map(find, batch))
  return jax.tree.map(
      lambda _, rows: np.concatenate([x[0] for x in rows])[:count],
      batch, parts)


def prefetch(batches: Iterable[Any], size: int = 2) -> Iterator[Any]:
  """Keeps `size` batches on their way to the devices ahead of the step."""
  queue = collections.deque()
  for batch in batches:
    queue.append(shard(batch))
    if len(queue) > size:
      yield queue.popleft()
  yield from queue


def pmap_train_step(
    train_step: Callable[..., Any], constant_axes: Sequence[Any] = (),
    state_axes: Any = None,
) -> Callable[..., Any]:
  """Maps `train_step(state, batch, *constants)` over all devices.

  The state is donated; the constants are not. Of the axes, which are as
  `pmap_voting_step` has them, a constant's are None where it is replicated.
  """
  return jax.pmap(
      train_step, axis_name=AXIS_NAME,
      in_axes=(state_axes, 0, *constant_axes), out_axes=(state_axes, None),
      donate_argnums=(0,))


def pmap_voting_step(
    train_step: Callable[..., Any],
    devices: Sequence[jax.Device] | None = None,
    state_axes: Any = None,
) -> Callable[..., Any]:
  """Maps `train_step(state, batch)` over all devices, and counts votes.

  Args:
    train_step: what one device does with its share of the batch.
    devices: to map over; None is all there are. Those of a topology that is
      not there will do for what is lowered and compiled, and not run.
    state_axes: 0 for what has an axis of devices, None for what has a copy on
      each; see `sharding.Layout`.

  Returns:
    `(state, batch, votes) -> (state, metrics, totals)`: `votes` as `ballot`
    makes them, `totals` f32[K], their sums over all processes. As the sums
    come with the step, all processes know of them at the same one. The state
    is donated.
  """
  def step(state: Any, batch: Any, votes: jax.Array) -> Any:
    state, metrics = train_step(state, batch)
    totals = all_reduce.psum_after(votes, metrics, AXIS_NAME)
    return state, metrics, totals

  return jax.pmap(
      step, axis_name=AXIS_NAME, in_axes=(state_axes, 0, 0),
      out_axes=(state_axes, None, None), devices=devices, donate_argnums=(0,))


def ballot(votes: Sequence[float]) -> jax.Array:
  """This process's numbers, to be summed over processes: [devices, K]."""
  rows = np.zeros((jax.local_device_count(), len(votes)), np.float32)
  rows[0] = votes
  return spread_over_host(rows)


def any_process(flag: bool) -> bool:
  """Whether it is true in any process; all must ask, in the same order."""
  if jax.process_count() == 1:
    return flag
  peers.wait()
  totals = _summer()(ballot([flag]))
  return bool(jax.device_get(totals.addressable_data(0))[0])


@functools.cache
def _summer() -> Callable[[jax.Array], jax.Array]:
  return jax.pmap(
      lambda votes: jax.lax.psum(votes, AXIS_NAME), axis_name=AXIS_NAME,
      out_axes=None)


def sync(name: str) -> None:
  """Waits until all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


class Predict:
  """Maps `fn(variables, images)` over this process's devices.

  Rows are padded up to a multiple of the number of devices, so any number of
  images does; each new one compiles once.
  """

  def __init__(self, fn: Callable[..., Any]):
    """`fn` maps variables and f32[b, ...] to a pytree of [b, ...]."""
    self._p_fn = jax.pmap(
        fn, axis_name=AXIS_NAME, in_axes=(None, 0),
        devices=jax.local_devices())

  def dispatch(
      self, variables: Any, images: np.ndarray) -> Callable[[], Any]:
    """Starts the devices on a batch.

    Args:
      variables: see `replicate`.
      images: [B, ...], of the host.

    Returns:
      A function that waits for the outputs, and returns them as arrays
      [B, ...] of the host. What is done before it is called, the devices do
      not wait for.
    """
    count = images.shape[0]
    padding = -count % jax.local_device_count()
    if padding:
      images = np.pad(
          images, [(0, padding)] + [(0, 0)] * (images.ndim - 1), mode='edge')
    outputs = self._p_fn(variables, shard(images))
    return lambda: jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:])[:count], jax.device_get(outputs))

  def __call__(self, variables: Any, images: np.ndarray) -> Any:
    """Dispatches and waits."""
    return self.dispatch(variables, images)()


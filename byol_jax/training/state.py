"""The state of a run: everything that a step changes."""

from collections.abc import Callable
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from byol_jax import platforms
from byol_jax.networks import network as network_lib


@struct.dataclass
class TrainState:
  """A pytree without a device axis; every device holds an equal copy.

  Attributes:
    step: i32[], optimizer updates so far.
    online_params: by part: encoder, projector, predictor, probe.
    target_params: encoder and projector; empty where there is no EMA.
    online_batch_stats: running statistics, by part.
    target_batch_stats: the same of the target's own forward passes.
    opt_state: of optax.
    objective_state: what the objective keeps between steps.
  """

  step: jax.Array
  online_params: Any
  target_params: Any
  online_batch_stats: Any
  target_batch_stats: Any
  opt_state: Any
  objective_state: Any


def target_parts(tree: dict[str, Any]) -> dict[str, Any]:
  """The parts of an online tree that a target has too."""
  return {k: tree[k] for k in network_lib.TARGET_PARTS if k in tree}


def make_create_train_state(
    network: network_lib.Network,
    tx: optax.GradientTransformation,
    config: ml_collections.ConfigDict,
    sharding: jax.sharding.Sharding | None = None,
) -> Callable[..., TrainState]:
  """Returns a maker of the initial state, which compiles but once.

  Parameters are a function of `config.seed` and, where the config says
  `affine_init`, of a batch of images f32[B, H, W, C] in [0, 1] that the maker
  is called with. The target starts from its own random parameters
  (`target_init` `independent`, as the original) or from the online network's
  (`copy`).

  Args:
    network: an unbound module.
    tx: the optimizer.
    config: of the run.
    sharding: of the parameters; None leaves it to the compiler.
  """
  size = config.image_size
  shape = (1, size, size, len(config.augment.mean))
  online_key, target_key = jax.random.split(jax.random.key(config.seed))
  if config.target_init == 'copy':
    target_key = online_key

  def init(key: jax.Array, images: jax.Array) -> tuple[Any, Any]:
    # As in training: what batch normalisation passes on is normalised, and
    # layers that start from data must see it so.
    variables = network.init(
        {'params': key, 'dropout': key}, images, train=True)
    return variables['params'], variables.get('batch_stats', {})

  init = platforms.jit_to_run_once(init, out_shardings=sharding)

  def create_train_state(images: jax.Array | None = None) -> TrainState:
    if images is None:
      images = jnp.zeros(shape)
    params, batch_stats = init(online_key, images)
    target_params, target_batch_stats = {}, {}
    if config.target == 'ema':
      target_params, target_batch_stats = map(
          target_parts, init(target_key, images))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        online_params=params, target_params=target_params,
        online_batch_stats=batch_stats, target_batch_stats=target_batch_stats,
        opt_state=tx.init(params), objective_state={})

  return create_train_state


def create_train_state(
    network: network_lib.Network,
    tx: optax.GradientTransformation,
    config: ml_collections.ConfigDict,
    images: jax.Array | None = None,
) -> TrainState:
  """The initial state, see `make_create_train_state`."""
  return make_create_train_state(network, tx, config)(images)

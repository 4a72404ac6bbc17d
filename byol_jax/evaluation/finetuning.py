"""Supervised training of an encoder and a head, from pretrained weights.

What is learned is a `Task`: a `Transfer` module and a loss. A `Trainer`
compiles one step for it and runs as many fits as a sweep has: settings that
differ between them are arrays of the state, not constants of the program.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import optax

from byol_jax import all_reduce
from byol_jax import platforms
from byol_jax.evaluation import resumable
from byol_jax.networks import transfer
from byol_jax.training import devices

Settings = Mapping[str, float]
# Maps settings, as arrays, to the optimizer.
MakeOptimizer = Callable[[dict[str, jax.Array]], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Task:
  """What to learn.

  Attributes:
    module: an encoder and a head.
    loss: maps the module's outputs and the batch, both of one device, to the
      sum of the losses of what counts, and how much counts: two scalars.
  """

  module: transfer.Transfer
  loss: Callable[[Any, resumable.Batch], tuple[jax.Array, jax.Array]]


@struct.dataclass
class State:
  """Of one fit.

  Attributes:
    step: i32[], updates so far.
    params: of the parts that learn.
    frozen: of those that do not.
    batch_stats: running statistics of both.
    opt_state: of the optimizer.
    settings: f32[] each, by name.
  """

  step: jax.Array
  params: Any
  frozen: Any
  batch_stats: Any
  opt_state: Any
  settings: dict[str, jax.Array]

  @property
  def variables(self) -> dict[str, Any]:
    """`params` and `batch_stats`, as `Transfer` takes them."""
    return {'params': self.params | self.frozen,
            'batch_stats': self.batch_stats}


def initialize(
    task: Task, key: jax.Array, images: jax.typing.ArrayLike,
    encoder_variables: Mapping[str, Any],
) -> dict[str, Any]:
  """A fresh head on a given encoder.

  Args:
    task: its module's head is initialised.
    key: a PRNG key.
    images: f32[B, H, W, C], whose values do not matter.
    encoder_variables: `params` and `batch_stats` with the part `encoder`.

  Returns:
    `params` and `batch_stats`, by part.
  """
  def find_given(name: str) -> dict[str, Any]:
    parts = encoder_variables.get(name, {}).items()
    return {part: tree for part, tree in parts if part == 'encoder'}

  given = {name: find_given(name) for name in ('params', 'batch_stats')}

  def init(key: jax.Array, images: jax.Array) -> dict[str, Any]:
    # Of what is given nothing is returned, and so nothing compiled.
    variables = task.module.init(key, images, train=False)
    return {
        name: {part: tree for part, tree in variables.get(name, {}).items()
               if part not in parts} for name, parts in given.items()}

  made = platforms.jit_to_run_once(init)(key, jnp.asarray(images))
  return {name: made[name] | parts for name, parts in given.items()}


class Trainer:
  """Fits a task, again and again, with one compiled step."""

  def __init__(self, task: Task, make_optimizer: MakeOptimizer):
    """See `Task` and `MakeOptimizer`."""
    self._task = task
    self._make_optimizer = make_optimizer
    self._p_step = devices.pmap_train_step(self._step)

  def fit(
      self, variables: Mapping[str, Any],
      make_batches: resumable.MakeBatches, *, total_steps: int,
      settings: Settings, what: str, directory: str | None = None,
      save_every_steps: int = 1000,
  ) -> dict[str, Any]:
    """Trains for `total_steps`.

    Args:
      variables: `params` and `batch_stats` to start from; they stay as they
        are.
      make_batches: of batches with `image` f32[b, H, W, C] and what the loss
        wants.
      total_steps: see `resumable.run_steps`, as for what follows.
      settings: of this fit, for `MakeOptimizer`.
      what: is trained.
      directory: to save in.
      save_every_steps: there.

    Returns:
      The variables after the last step, on the host.
    """
    state = resumable.run_steps(
        self._p_step, self._create_state(variables, settings), make_batches,
        total_steps=total_steps, what=what, directory=directory,
        save_every_steps=save_every_steps)
    return state.variables

  def _create_state(
      self, variables: Mapping[str, Any], settings: Settings) -> State:
    frozen = {'encoder'} if self._task.module.freeze_encoder else set()
    # Copied, because the step takes the state's memory.
    params = jax.tree.map(jnp.array, variables['params'])
    arrays = {k: jnp.float32(v) for k, v in settings.items()}
    learned = {k: v for k, v in params.items() if k not in frozen}
    return State(
        step=jnp.zeros((), jnp.int32), params=learned,
        frozen={k: v for k, v in params.items() if k in frozen},
        batch_stats=jax.tree.map(jnp.array, variables['batch_stats']),
        opt_state=self._make_optimizer(arrays).init(learned), settings=arrays)

  def _step(
      self, state: State, batch: resumable.Batch) -> tuple[State, jax.Array]:
    """One update; returns the mean loss before it."""
    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, jax.Array]]:
      outputs, updated = self._task.module.apply(
          {'params': params | state.frozen, 'batch_stats': state.batch_stats},
          batch['image'], train=True, mutable=['batch_stats'])
      total, count = self._task.loss(outputs, batch)
      count = jnp.maximum(all_reduce.psum(
          lax.stop_gradient(count), devices.AXIS_NAME), 1)
      # The mean over devices is then the mean over all that counts.
      loss = total * lax.axis_size(devices.AXIS_NAME) / count
      return loss, updated['batch_stats']

    (loss, batch_stats), grads = jax.value_and_grad(
        loss_fn, has_aux=True)(state.params)
    loss, grads = all_reduce.pmean((loss, grads), devices.AXIS_NAME)
    updates, opt_state = self._make_optimizer(state.settings).update(
        grads, state.opt_state, state.params)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats, opt_state=opt_state), loss


def sgd(
    settings: Mapping[str, jax.Array], *, schedule: Callable[..., jax.Array],
    momentum: float, nesterov: bool = True,
) -> optax.GradientTransformation:
  """SGD with momentum; decay is added to the gradient, as L2 regularisation.

  Args:
    settings: `learning_rate`, and `weight_decay` if there is any.
    schedule: maps the 0-based step to a factor of the learning rate.
    momentum: weight of the old direction.
    nesterov: of its kind.
  """
  return optax.chain(
      optax.add_decayed_weights(settings.get('weight_decay', 0.0)),
      optax.trace(decay=momentum, nesterov=nesterov),
      optax.scale_by_schedule(
          lambda step: -settings['learning_rate'] * schedule(step)))

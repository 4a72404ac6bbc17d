"""One optimizer step of any two-view method, as a pure function.

`train_step(state, batch) -> (state, metrics)` runs on every device under the
mapped axis, each with its share of the batch. What does not change during a
run is bound by keyword, see `make_train_step`.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import ml_collections
import optax

from byol_jax import objectives
from byol_jax.augmentation import photometric
from byol_jax.networks import network as network_lib
from byol_jax.objectives import regression
from byol_jax.training import schedules
from byol_jax.training import sharding
from byol_jax.training import state as state_lib

Batch = dict[str, Any]
Metrics = dict[str, jax.Array]


def _probe_loss(logits: jax.Array, label: jax.Array) -> tuple[
    jax.Array, Metrics]:
  """Cross-entropy of the online probe on the first view."""
  loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(
      logits, label))
  top1 = jnp.mean(jnp.argmax(logits, axis=-1) == label, dtype=logits.dtype)
  return loss, {
      'online_probe/train_loss': loss, 'online_probe/train_top1': top1}


def _moments(outputs: network_lib.Outputs) -> dict[str, jax.Array]:
  """First and second moments of unit rows, to be averaged over devices."""
  moments = {}
  for name in ('embedding', 'projection', 'prediction'):
    unit = lax.stop_gradient(regression.l2_normalize(getattr(outputs, name)))
    moments[name] = jnp.stack([unit, jnp.square(unit)]).mean(axis=1)
  return moments


def _spread(moments: jax.Array) -> jax.Array:
  """Mean standard deviation of unit rows, times sqrt(D).

  1 where directions are spread evenly, 0 where all rows are equal: collapse.
  """
  variance = jnp.maximum(moments[1] - jnp.square(moments[0]), 0.0)
  return jnp.mean(jnp.sqrt(variance)) * jnp.sqrt(
      jnp.asarray(moments.shape[-1], moments.dtype))


def _cosine(online: tuple, target: tuple) -> jax.Array:
  """Mean cosine of each prediction with the other view's target projection."""
  losses = [
      regression.regression_loss(
          lax.stop_gradient(online[i].prediction),
          lax.stop_gradient(target[1 - i].projection))
      for i in range(2)]
  return 1 - jnp.mean(jnp.stack(losses)) / 2


def _of_this_device(key: jax.Array, axis_name: str | None) -> jax.Array:
  """A key of its own for each device, whose examples are its own too."""
  if axis_name is None:
    return key
  return jax.random.fold_in(key, lax.axis_index(axis_name))


def _micro_batches(batch: Batch, count: int) -> Batch:
  """Splits [B, ...] to [count, B / count, ...], example by example in turn.

  In turn, so that which examples share a micro-batch, and with it their batch
  statistics, does not depend on how many devices share the batch.
  """
  def split(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)
  return jax.tree.map(split, batch)


def train_step(
    state: state_lib.TrainState,
    batch: Batch,
    *,
    to_variables: Callable[[Any], dict[str, Any]],
    apply_views: Callable[..., Any],
    objective: Callable[..., Any],
    tx: optax.GradientTransformation,
    learning_rate_fn: schedules.Schedule,
    tau_fn: schedules.Schedule,
    target: str,
    accumulation_steps: int,
    layout: sharding.Layout,
    axis_name: str | None,
    seed: int,
    make_views: Callable[[Batch], Batch] = lambda batch: batch,
) -> tuple[state_lib.TrainState, Metrics]:
  """Takes one optimizer step and moves the target once.

  Args:
    state: the same on every device, but for what the layout splits. The caller
      donates it.
    batch: this device's share: `views`, two arrays f32[b, H, W, C] in [0, 1],
      or what `make_views` makes them of;
      `index` i32[b]; where there are labels, `label`, i32[b] for the probe.
    to_variables: `networks.network.to_variables` of a network.
    apply_views: `networks.network.apply_views` of a network.
    objective: see `byol_jax.objectives`.
    tx: the optimizer.
    learning_rate_fn: of the 0-based step, for the metrics.
    tau_fn: of the 0-based step.
    target: `ema`, `stop_gradient` (of the online network) or `online`.
    accumulation_steps: micro-batches whose gradients are averaged, each
      normalised by its own batch statistics; divides b.
    layout: of the state over devices.
    axis_name: mapped axis, or None on a single device.
    seed: of what is random on the device.
    make_views: see `photometric.make_views_fn`.

  Returns:
    The next state, and metrics averaged over devices.
  """
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  # Once for all micro-batches, whose gradients are by what it returns.
  online_variables, pull_back = jax.vjp(
      to_variables, layout.gather(state.online_params))
  target_variables = to_variables(layout.gather(state.target_params))

  def loss_fn(variables: Any, carry: Any, micro: Batch, key: jax.Array) -> Any:
    online_stats, target_stats, objective_state = carry
    online_key, target_key = jax.random.split(_of_this_device(key, axis_name))
    online, online_stats = apply_views(
        {**variables, 'batch_stats': online_stats}, micro['views'],
        key=online_key)
    if target == 'ema':
      aim, target_stats = apply_views(
          {**target_variables, 'batch_stats': target_stats},
          micro['views'], method='project', key=target_key)
    else:
      aim = online
    if target != 'online':
      aim = lax.stop_gradient(aim)
    loss, objective_state, metrics = objective(
        online, aim, objective_state, step=state.step, index=micro['index'],
        key=key, axis_name=axis_name)
    metrics = {
        'train/loss': loss, 'train/cosine': _cosine(online, aim), **metrics}
    if online[0].logits is not None:
      probe_loss, probe_metrics = _probe_loss(
          online[0].logits, micro['label'])
      loss += probe_loss
      metrics |= probe_metrics
    carry = (online_stats, target_stats, objective_state)
    return loss, (carry, metrics, _moments(online[0]))

  def micro_step(carry: Any, micro: tuple[Batch, jax.Array]) -> Any:
    micro_batch, key = micro
    grads, (carry, metrics, moments) = jax.grad(loss_fn, has_aux=True)(
        online_variables, carry, make_views(micro_batch), key)
    return carry, (grads, metrics, moments)

  carry = (
      state.online_batch_stats, state.target_batch_stats,
      state.objective_state)
  if accumulation_steps == 1:
    carry, averaged = micro_step(carry, (batch, key))
  else:
    carry, averaged = _accumulate(
        micro_step, carry, _micro_batches(batch, accumulation_steps), key,
        accumulation_steps)
  grads, *others = averaged
  (grads,) = pull_back(grads)
  grads, (metrics, moments) = layout.average(grads, others)

  tau = tau_fn(state.step)
  state, moved = apply_gradients(
      state, grads, tx=tx, tau=tau, target=target, layout=layout)
  online_stats, target_stats, objective_state = carry
  metrics |= moved | {
      'train/tau': tau,
      'train/learning_rate': learning_rate_fn(state.step),
      **{f'train/{k}_std': _spread(v) for k, v in moments.items()}}
  return state.replace(
      step=state.step + 1, online_batch_stats=online_stats,
      target_batch_stats=target_stats, objective_state=objective_state
  ), metrics


def apply_gradients(
    state: state_lib.TrainState, grads: Any, *,
    tx: optax.GradientTransformation, tau: jax.Array, target: str,
    layout: sharding.Layout,
) -> tuple[state_lib.TrainState, Metrics]:
  """Moves the online parameters, and after them the target.

  Args:
    state: before the step.
    grads: as `state.online_params`, averaged over devices.
    tx: the optimizer.
    tau: weight of the old target.
    target: as in `train_step`.
    layout: likewise.

  Returns:
    The state with new parameters and optimizer state, and how large gradients,
    update and parameters are.
  """
  online = state.online_params
  updates, opt_state = tx.update(grads, state.opt_state, online)
  params = optax.apply_updates(online, updates)
  target_params = state.target_params
  measured = {
      'grad_norm': grads,
      # Not of `updates`, for which XLA would read the parameters again.
      'update_norm': optax.tree.sub(params, online), 'param_norm': params}
  if target == 'ema':
    followed = state_lib.target_parts(params)
    target_params = optax.incremental_update(
        followed, target_params, 1 - tau)
    measured |= {
        'target_distance': optax.tree.sub(target_params, followed),
        'followed_norm': followed}
  metrics = {
      f'train/{name}': norm for name, norm in zip(
          measured, layout.norm(*measured.values()), strict=True)}
  if target == 'ema':  # as a share of the norm of what it follows
    metrics['train/target_distance'] /= metrics.pop('train/followed_norm')
  return state.replace(
      online_params=params, target_params=target_params,
      opt_state=opt_state), metrics


def _accumulate(
    micro_step: Callable[..., Any], carry: Any, micro_batches: Batch,
    key: jax.Array, count: int,
) -> Any:
  """Runs micro-batches one after the other; averages what they yield."""
  keys = jax.random.split(key, count)
  first = jax.tree.map(lambda x: x[0], (micro_batches, keys))
  _, shapes = jax.eval_shape(micro_step, carry, first)
  total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def body(acc: Any, micro: Any) -> Any:
    carry, total = acc
    carry, new = micro_step(carry, micro)
    return (carry, jax.tree.map(jnp.add, total, new)), None

  (carry, total), _ = lax.scan(body, (carry, total), (micro_batches, keys))
  return carry, jax.tree.map(lambda x: x / count, total)


def make_train_step(
    config: ml_collections.ConfigDict,
    network: network_lib.Network,
    tx: optax.GradientTransformation,
    learning_rate_fn: schedules.Schedule,
    *,
    total_steps: int,
    layout: sharding.Layout | None = None,
) -> Callable[[state_lib.TrainState, Batch], tuple[
    state_lib.TrainState, Metrics]]:
  """Binds `train_step` to a configuration; by default all is replicated."""
  layout = layout or sharding.Replicated(network.axis_name)
  return layout.map(functools.partial(
      train_step,
      to_variables=functools.partial(
          network_lib.to_variables, network, config),
      apply_views=functools.partial(
          network_lib.apply_views, network,
          joined=config.batch_statistics == 'joined',
          momentum=config.batch_norm_momentum),
      objective=objectives.make_objective(config), tx=tx,
      learning_rate_fn=learning_rate_fn,
      tau_fn=schedules.make_tau_fn(
          base_tau=config.base_tau, tau_schedule=config.tau_schedule,
          total_steps=total_steps),
      target=config.target, accumulation_steps=config.accumulation_steps,
      layout=layout,
      axis_name=network.axis_name, seed=config.seed,
      make_views=photometric.make_views_fn(config)))

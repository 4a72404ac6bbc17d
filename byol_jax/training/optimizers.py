"""Optimizers from optax parts, and which parameters they treat apart."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from byol_jax.training import schedules
from byol_jax.training import sharding

# Maps parameters to a tree of booleans.
Mask = Callable[[Any], Any]
# Maps trees to the L2 norms of their leaves.
Norms = Callable[..., tuple[Any, ...]]


def is_decayed(params: Any) -> Any:
  """Whether weight decay and the trust ratio touch a parameter, leaf by leaf.

  They touch kernels only: every bias, and every scale and offset of a
  normalisation layer, is left out. Those are the parameters of one dimension
  or none, here and in any encoder a user brings.
  """
  return jax.tree.map(lambda p: p.ndim > 1, params)


def _is_any(params: Any) -> Any:
  return jax.tree.map(lambda _: True, params)


def _scale_by_trust_ratio(
    norms: Norms, trust_coefficient: float) -> optax.GradientTransformation:
  """As optax's, whose norms are of what a device has, and take two passes."""

  def update_fn(
      updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
    ratios = _trust_ratios(*norms(params, updates), trust_coefficient)
    return jax.tree.map(jnp.multiply, updates, ratios), state

  return optax.GradientTransformation(
      lambda _: optax.EmptyState(), update_fn)


def _scale_by_clipped_trust_ratio(
    norms: Norms, trust_coefficient: float,
    learning_rate_fn: schedules.Schedule,
) -> optax.GradientTransformation:
  """The trust ratio as apex's LARC and solo-learn clip it.

  Scales by min(ratio / learning rate, 1), so that a kernel's rate, once the
  learning rate multiplies it, is min(ratio, learning rate).
  """

  def update_fn(
      updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
    ratios = _trust_ratios(*norms(params, updates), trust_coefficient)
    # A warm-up starts at a rate of 0, where nothing moves whatever the ratio.
    learning_rate = jnp.maximum(learning_rate_fn(state.count), 1e-12)
    return jax.tree.map(
        lambda update, ratio: update * jnp.minimum(
            ratio / learning_rate.astype(ratio.dtype), 1.0),
        updates, ratios), optax.ScaleByScheduleState(
            optax.safe_increment(state.count))

  return optax.GradientTransformation(
      lambda _: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)),
      update_fn)


def _trust_ratios(
    param_norms: Any, update_norms: Any, trust_coefficient: float) -> Any:
  """What each update is multiplied by; 1 where either norm is 0."""
  def ratio(param_norm: jax.Array, update_norm: jax.Array) -> jax.Array:
    is_zero = (param_norm == 0) | (update_norm == 0)
    return jnp.where(
        is_zero, 1.0, trust_coefficient * param_norm / update_norm)
  return jax.tree.map(ratio, param_norms, update_norms)


def lars(
    learning_rate_fn: schedules.Schedule, *, weight_decay: float,
    momentum: float, trust_coefficient: float, clip_trust_ratio: bool = False,
    mask: Mask | None = None, norms: Norms = sharding.local_norms,
) -> optax.GradientTransformation:
  """LARS as the original has it, which is not `optax.lars`.

  Weight decay, then trust ratio, then momentum, then the learning rate: the
  rate stays outside the momentum buffer, so a change of it acts at once. No
  Nesterov, no epsilon; a zero norm gives a ratio of 1.

  Args:
    learning_rate_fn: of the 0-based step.
    weight_decay: added to the gradient of kernels.
    momentum: decay of the buffer.
    trust_coefficient: eta; a kernel moves by about `learning rate * eta` of
      its own norm.
    clip_trust_ratio: whether a kernel's rate is min(ratio, learning rate), as
      in solo-learn, and not their product, as in the original.
    mask: which parameters decay and ratio touch; None is `is_decayed`.
    norms: of the leaves of trees, which may lie on several devices; see
      `sharding.Layout`.

  Returns:
    The transform.
  """
  if clip_trust_ratio:
    scale = _scale_by_clipped_trust_ratio(
        norms, trust_coefficient, learning_rate_fn)
  else:
    scale = _scale_by_trust_ratio(norms, trust_coefficient)
  mask = mask or is_decayed
  return optax.chain(
      optax.add_decayed_weights(weight_decay, mask=mask),
      optax.masked(scale, mask),
      optax.trace(decay=momentum),
      optax.scale_by_learning_rate(learning_rate_fn))


def _is_predictor(params: Any) -> Any:
  return {
      name: jax.tree.map(lambda _, name=name: name == 'predictor', part)
      for name, part in params.items()}


def create_optimizer(
    config: ml_collections.ConfigDict,
    learning_rate_fn: schedules.Schedule,
    norms: Norms = sharding.local_norms,
) -> optax.GradientTransformation:
  """The transform that `config.optimizer` names; for `norms` see `lars`."""
  mask = is_decayed if config.exclude_bias_and_norm else _is_any
  if config.optimizer == 'lars':
    tx = lars(
        learning_rate_fn, weight_decay=config.weight_decay,
        momentum=config.momentum, trust_coefficient=config.trust_coefficient,
        clip_trust_ratio=config.clip_trust_ratio, mask=mask, norms=norms)
  elif config.optimizer == 'sgd':
    tx = optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=mask),
        optax.sgd(learning_rate_fn, momentum=config.momentum))
  else:
    tx = optax.adamw(
        learning_rate_fn, weight_decay=config.weight_decay, mask=mask)
  if config.predictor_learning_rate_multiplier == 1:
    return tx
  return optax.chain(tx, optax.masked(
      optax.scale(config.predictor_learning_rate_multiplier), _is_predictor))

"""Optimizers from optax parts, and which parameters they treat apart."""

from typing import Any

import jax
import ml_collections
import optax

from byol_jax.training import schedules

OPTIMIZERS = ('lars', 'sgd', 'adamw')


def is_decayed(params: Any) -> Any:
  """Whether weight decay and the trust ratio touch a parameter, leaf by leaf.

  They touch kernels only: every bias, and every scale and offset of a
  normalisation layer, is left out. Those are the parameters of one dimension
  or none, here and in any encoder a user brings.
  """
  return jax.tree.map(lambda p: p.ndim > 1, params)


def lars(
    learning_rate_fn: schedules.Schedule, *, weight_decay: float,
    momentum: float, trust_coefficient: float,
) -> optax.GradientTransformation:
  """LARS as the original has it, which is not `optax.lars`.

  Weight decay, then trust ratio, then momentum, then the learning rate: the
  rate stays outside the momentum buffer, so a change of it acts at once. No
  Nesterov, no epsilon, no clipping; a zero norm gives a ratio of 1.
  """
  return optax.chain(
      optax.add_decayed_weights(weight_decay, mask=is_decayed),
      optax.masked(
          optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient),
          is_decayed),
      optax.trace(decay=momentum),
      optax.scale_by_learning_rate(learning_rate_fn))


def _is_predictor(params: Any) -> Any:
  return {
      name: jax.tree.map(lambda _, name=name: name == 'predictor', part)
      for name, part in params.items()}


def create_optimizer(
    config: ml_collections.ConfigDict,
    learning_rate_fn: schedules.Schedule,
) -> optax.GradientTransformation:
  """Returns the transform that `config.optimizer` names."""
  if config.optimizer == 'lars':
    tx = lars(
        learning_rate_fn, weight_decay=config.weight_decay,
        momentum=config.momentum, trust_coefficient=config.trust_coefficient)
  elif config.optimizer == 'sgd':
    tx = optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=is_decayed),
        optax.sgd(learning_rate_fn, momentum=config.momentum))
  else:
    tx = optax.adamw(
        learning_rate_fn, weight_decay=config.weight_decay, mask=is_decayed)
  if config.predictor_learning_rate_multiplier == 1:
    return tx
  return optax.chain(tx, optax.masked(
      optax.scale(config.predictor_learning_rate_multiplier), _is_predictor))

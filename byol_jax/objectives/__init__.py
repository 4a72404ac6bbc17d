"""Objectives: pure functions of the two networks' outputs.

    objective(online, target, objective_state, *, step, index, key, axis_name)
        -> (loss, objective_state, metrics)

`online` and `target` are tuples of `networks.network.Outputs`, one for each
view; `loss` is the mean over this device's examples; `objective_state` is what
the objective keeps between steps; `metrics` maps names to scalars, averaged
over devices by the step.
"""

import functools

import ml_collections

from byol_jax.objectives import info_nce
from byol_jax.objectives import regression


def make_objective(config: ml_collections.ConfigDict):
  """Returns the objective that `config` asks for, its settings bound."""
  if config.beta:
    return functools.partial(
        info_nce.objective, beta=config.beta, temperature=config.temperature)
  return functools.partial(
      regression.objective, normalization=config.loss_normalization)

"""The first state of a run, which may depend on its first batch."""

from collections.abc import Callable

import jax
import ml_collections
import optax

from byol_jax import config_rules
from byol_jax.data import examples
from byol_jax.data import pipeline
from byol_jax.networks import network as network_lib
from byol_jax.training import devices
from byol_jax.training import state as state_lib


def make_create_first_state(
    network: network_lib.Network,
    tx: optax.GradientTransformation,
    config: ml_collections.ConfigDict,
    source: examples.Source | None,
) -> Callable[[], state_lib.TrainState]:
  """Returns a maker of the state that training starts from.

  It is a function of `config` and, with `affine_init`, of the views of the
  run's first micro-batch, which are normalised together over all devices. So
  it can be made again at any time, as a resumed run does for its baseline.

  Args:
    network: of the run.
    tx: of the run.
    config: of the run.
    source: of the run's examples; None will do where nothing depends on
      them (`config_rules.starts_from_data`).
  """
  if not config_rules.starts_from_data(config):
    return state_lib.make_create_train_state(network, tx, config)
  create = state_lib.make_create_train_state(
      network, tx, config, devices.everywhere())

  def create_first_state() -> state_lib.TrainState:
    images = pipeline.read_first_views(
        source, config, process_index=jax.process_index(),
        process_count=jax.process_count())
    return devices.localize(create(devices.spread(images)))

  return create_first_state

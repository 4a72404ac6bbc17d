"""What others take from a run: all of it, for inference, or its weights."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from byol_jax import config as config_lib
from byol_jax import config_changes
from byol_jax import places
from byol_jax.networks import network as network_lib
from byol_jax.training import checkpoint
from byol_jax.training import optimizers
from byol_jax.training import state as state_lib


def restore(
    workdir: str, encoder: nn.Module | None = None
) -> tuple[ml_collections.ConfigDict, network_lib.Network,
           state_lib.TrainState]:
  """Restores the newest checkpoint of a run, for inference.

  Args:
    workdir: of `byol_jax.pretrain`.
    encoder: the module the run was given, where it was given one.

  Returns:
    The run's config, its network without a mapped axis, and its state.

  Raises:
    ConfigError: if there is no checkpoint, or `encoder` is needed.
  """
  places.check_checkpoints(workdir)
  made = {}

  def make_like(run: dict[str, Any]) -> state_lib.TrainState:
    if run['custom_encoder'] and encoder is None:
      raise config_lib.ConfigError(
          f'{workdir} was pretrained with a custom encoder, '
          f'{run["custom_encoder"]}: pass encoder=')
    config = config_lib.from_dict(run['config'])
    network = network_lib.create_network(
        config, run['num_classes'], encoder if run['custom_encoder'] else None)
    made.update(config=config, network=network)
    tx = optimizers.create_optimizer(config, lambda _: 0.0)
    return jax.eval_shape(
        lambda: state_lib.create_train_state(network, tx, config))

  checkpoints = checkpoint.Checkpoints(workdir)
  try:
    restored = checkpoints.restore_newest(make_like)
    if restored is None:
      raise config_lib.ConfigError(
          f'no finished checkpoint in {checkpoints.directory}: let '
          'byol_jax.pretrain reach its first save')
    return made['config'], made['network'], restored.state
  finally:
    checkpoints.close()


def load_weights(
    state: state_lib.TrainState, config: ml_collections.ConfigDict,
    encoder: nn.Module | None,
) -> state_lib.TrainState:
  """A fresh `state` with the weights and statistics of `config.init_from`.

  The optimizer, the step and the probe start anew; heads and encoder, online
  and target, come over.

  Raises:
    ConfigError: if a normalisation, its settings or a parameter's shape is
      another, naming the first.
  """
  workdir = config.init_from
  there, _, source = restore(workdir, encoder)
  _check_same_norms(there, config)
  if not source.target_params:  # it had no EMA: its target was itself
    # Copies, as a step is given each array to do with as it likes.
    target_params, target_batch_stats = (
        jax.tree.map(jnp.copy, state_lib.target_parts(tree))
        for tree in (source.online_params, source.online_batch_stats))
    source = source.replace(
        target_params=target_params, target_batch_stats=target_batch_stats)
  fields = ('online_params', 'target_params', 'online_batch_stats',
            'target_batch_stats')
  return state.replace(**{
      field: _take_over(getattr(state, field), getattr(source, field), workdir)
      for field in fields})


def _check_same_norms(
    there: ml_collections.ConfigDict, here: ml_collections.ConfigDict) -> None:
  """Parameters of all norms look alike, and mean something else in each."""
  kinds = ('encoder_norm', 'projector_norm', 'predictor_norm')
  fields = dict.fromkeys(
      kinds + config_changes.norm_fields(there)
      + config_changes.norm_fields(here))
  for field in fields:
    theirs, mine = there[field], here[field]
    # These two differ only in whose statistics they take.
    if field in kinds and {theirs, mine} == {'batch', 'batch_local'}:
      continue
    if theirs != mine:
      raise config_lib.ConfigError(
          f'config.{field} is {mine}, and config.init_from={here.init_from} '
          f'was trained with {theirs}: set the same')


def _take_over(
    mine: dict[str, Any], theirs: dict[str, Any], workdir: str
) -> dict[str, Any]:
  """`theirs`, part by part, except for the probe."""
  taken = {}
  for part, tree in mine.items():
    if part == 'probe':
      taken[part] = tree
      continue
    taken[part] = theirs.get(part, {})
    checkpoint.check_shapes(
        checkpoint.shapes({part: taken[part]}), checkpoint.shapes({part: tree}),
        f'config.init_from={workdir}')
  return taken

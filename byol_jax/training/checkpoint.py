"""Checkpoints through orbax: the state, and a note of the run around it.

    WORKDIR/checkpoints/STEP/state   the TrainState
    WORKDIR/checkpoints/STEP/run     JSON: config, data position, clock, ...

Saving is asynchronous and atomic: a checkpoint that was not finished when the
run was killed is not there afterwards.
"""

from collections.abc import Iterator
import contextlib
import pathlib
from typing import Any

from flax import linen as nn
import jax
import ml_collections
import orbax.checkpoint as ocp

from byol_jax import config as config_lib
from byol_jax.networks import network as network_lib
from byol_jax.training import devices
from byol_jax.training import optimizers
from byol_jax.training import state as state_lib

# Raised by orbax for files that are missing or not as they were written.
_DAMAGE = (ValueError, KeyError, FileNotFoundError)
# What TensorStore says of everything else.
_NOT_THE_FILES = (
    'PERMISSION_DENIED', 'RESOURCE_EXHAUSTED', 'UNAVAILABLE',
    'DEADLINE_EXCEEDED', 'ABORTED', 'CANCELLED')


def _abstract(tree: Any) -> Any:
  """Shapes, to be restored as a copy on each of this process's devices."""
  sharding = devices.replicated_sharding()
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      tree)


class Checkpoints:
  """The checkpoints of one workdir."""

  def __init__(self, workdir: str, keep: int = 1):
    """Opens `workdir`, of which the newest `keep` checkpoints are kept."""
    self.directory = pathlib.Path(workdir).resolve() / 'checkpoints'
    self._manager = ocp.CheckpointManager(
        self.directory,
        options=ocp.CheckpointManagerOptions(max_to_keep=keep),
        item_handlers={
            'state': ocp.StandardCheckpointHandler(),
            'run': ocp.JsonCheckpointHandler()})

  def latest_step(self) -> int | None:
    """The newest finished checkpoint's step."""
    return self._manager.latest_step()

  def save(
      self, step: int, state: state_lib.TrainState, run: dict[str, Any]
  ) -> None:
    """Starts saving; `state` may be donated as soon as this returns."""
    self._manager.save(step, args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run)))

  def restore_run(self, step: int) -> dict[str, Any]:
    """The note that `save` was given at `step`.

    Raises:
      ConfigError: if it is cut short or damaged.
    """
    with self._reading(step):
      return self._manager.restore(
          step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))['run']

  def restore_state(
      self, step: int, like: state_lib.TrainState) -> state_lib.TrainState:
    """The state saved at `step`, replicated; `like` gives its structure.

    Raises:
      ConfigError: if an array has another shape, or is not there, or if the
        files are cut short or damaged.
    """
    with self._reading(step):
      saved = _shapes(self._manager.item_metadata(step)['state'])
      if not saved:
        raise KeyError('orbax finds no arrays without its _METADATA')
    _check_shapes(
        saved, _shapes(like), f'the checkpoint {self.directory}/{step}')
    with self._reading(step):
      return self._manager.restore(step, args=ocp.args.Composite(
          state=ocp.args.StandardRestore(_abstract(like))))['state']

  @contextlib.contextmanager
  def _reading(self, step: int) -> Iterator[None]:
    """What orbax raises of files that are not whole, as one line."""
    try:
      yield
    except Exception as error:
      # Of arrays it wraps what happened in a plain Exception. What is not the
      # files' fault, such as a lack of memory or of permission, goes on.
      cause = error.__cause__ if type(error) is Exception else error
      if not isinstance(cause, _DAMAGE) or any(
          word in f'{error} {cause}' for word in _NOT_THE_FILES):
        raise
      if not (self.directory / str(step)).is_dir():
        raise config_lib.ConfigError(
            f'the checkpoint {self.directory}/{step} made room for a newer one '
            'while it was read: start again') from error
      raise config_lib.ConfigError(
          f'the checkpoint {self.directory}/{step} is cut short or damaged: '
          'delete that folder to go on from an older one, or from the start '
          'where there is none') from error

  def close(self) -> None:
    """Waits until what was started is saved."""
    self._manager.wait_until_finished()
    self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """By path, with dots: `online_params.encoder.stem_conv.kernel`."""
  return {
      '.'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(
          k, 'idx', k)))) for k in path): tuple(leaf.shape)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _check_shapes(
    theirs: dict[str, tuple[int, ...]], mine: dict[str, tuple[int, ...]],
    what: str,
) -> None:
  """Raises ConfigError at the first array that differs."""
  for name in sorted(theirs | mine):
    if theirs.get(name) != mine.get(name):
      raise config_lib.ConfigError(
          f'{what} is of another network: {name} has the shape '
          f'{theirs.get(name, "(not there)")} there and '
          f'{mine.get(name, "(not there)")} here')


def check_same_network(
    saved: dict[str, Any], wanted: dict[str, Any], workdir: str) -> None:
  """Raises ConfigError, naming the fields, if a checkpoint cannot fit.

  Args:
    saved: the note of the run that is there.
    wanted: the note of the run that is to continue it.
    workdir: of both.
  """
  fields = config_lib.network_differences(
      *(config_lib.from_dict(note['config']) for note in (saved, wanted)))
  fields += [
      f'{name}: {saved[name]!r}, {wanted[name]!r}'
      for name in ('custom_encoder', 'num_classes')
      if saved[name] != wanted[name]]
  if fields:
    raise config_lib.ConfigError(
        f'{workdir} holds a checkpoint of another network; these fields '
        f'differ (there, here): {"; ".join(fields)}. Take another --workdir '
        'or the same fields')


def restore_workdir(
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
  if not (pathlib.Path(workdir) / 'checkpoints').is_dir():
    raise config_lib.ConfigError(
        f'no checkpoint in {workdir}: expected the --workdir of a '
        'byol_jax.pretrain run')
  checkpoints = Checkpoints(workdir)
  try:
    step = checkpoints.latest_step()
    if step is None:
      raise config_lib.ConfigError(
          f'no finished checkpoint in {checkpoints.directory}: let '
          'byol_jax.pretrain reach its first save')
    run = checkpoints.restore_run(step)
    if run['custom_encoder'] and encoder is None:
      raise config_lib.ConfigError(
          f'{workdir} was pretrained with a custom encoder, '
          f'{run["custom_encoder"]}: pass encoder=')
    config = config_lib.from_dict(run['config'])
    network = network_lib.create_network(
        config, run['num_classes'], encoder if run['custom_encoder'] else None)
    tx = optimizers.create_optimizer(config, lambda _: 0.0)
    like = jax.eval_shape(
        lambda: state_lib.create_train_state(network, tx, config))
    return config, network, checkpoints.restore_state(step, like)
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
  there, _, source = restore_workdir(workdir, encoder)
  _check_same_norms(there, config)
  if not source.target_params:  # it had no EMA: its target was itself
    source = source.replace(
        target_params=state_lib.target_parts(source.online_params),
        target_batch_stats=state_lib.target_parts(source.online_batch_stats))
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
      kinds + config_lib.norm_fields(there) + config_lib.norm_fields(here))
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
    _check_shapes(
        _shapes({part: taken[part]}), _shapes({part: tree}),
        f'config.init_from={workdir}')
  return taken

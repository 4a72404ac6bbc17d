"""Where a run starts: at its last good checkpoint, or from the beginning."""

from typing import Any

from absl import logging
import jax

from byol_jax import config as config_lib
from byol_jax import config_changes
from byol_jax.training import checkpoint
from byol_jax.training import devices
from byol_jax.training import saved_run
from byol_jax.training import setup as setup_lib
from byol_jax.training import state as state_lib

# What a run may take over from a note: all that its setup does not say.
_CONTINUED = {
    'examples_seen': 0, 'seconds': 0.0, 'wall_seconds': 0.0,
    # Places in the order of batches that are left out, see on_nonfinite.
    'skipped_batches': [],
    # Indices of those that any process could not read.
    'unreadable_examples': [],
    # Whether the evaluation at this step was not made, or not to its end.
    'evaluation_due': False,
}


def first_note(setup: setup_lib.Setup) -> dict[str, Any]:
  """What is saved with the state, as it is before the first step."""
  config, source = setup.config, setup.sources.train
  return {
      'config': config_lib.to_dict(config),
      # The probe's; where there is none, all that the data have.
      'num_classes': (source.num_single_classes if config.online_probe
                      else source.num_classes),
      'num_examples': source.num_examples,
      'custom_encoder': (
          config.encoder if setup.encoder is not None else None),
      **_CONTINUED, 'skipped_batches': []}


def first_state(
    setup: setup_lib.Setup, checkpoints: checkpoint.Checkpoints, workdir: str,
    accept_config_changes: bool = False,
) -> tuple[state_lib.TrainState, dict[str, Any]]:
  """The state to start from, and the note of the run so far.

  In this order: (1) this workdir's newest checkpoint that is whole, (2) the
  weights of `config.init_from`, (3) random.

  Raises:
    ConfigError: if the checkpoint is of another network; if the run would go
      on otherwise than it began, and that is not accepted.
  """
  note = first_note(setup)

  def make_like(saved: dict[str, Any]) -> state_lib.TrainState:
    _check_same_network(saved, note, workdir)
    _check_same_run(saved, note, workdir, accept_config_changes)
    return setup.create_abstract_state()

  restored = checkpoints.restore_newest(make_like, set_aside=True)
  if restored is None:
    return _initial_state(setup), note
  if not jax.process_index():
    print(f'continuing {workdir} at step {restored.step}')
  return restored.state, note | {
      k: restored.run.get(k, default) for k, default in _CONTINUED.items()}


def last_good_state(
    setup: setup_lib.Setup, checkpoints: checkpoint.Checkpoints
) -> state_lib.TrainState:
  """The newest checkpoint that is whole, or what the run began with."""
  restored = checkpoints.restore_newest(
      lambda _: setup.create_abstract_state(), set_aside=True)
  return restored.state if restored else _initial_state(setup)


def _initial_state(setup: setup_lib.Setup) -> state_lib.TrainState:
  state = setup.create_state()
  if setup.config.init_from:
    state = saved_run.load_weights(state, setup.config, setup.encoder)
  return devices.replicate(state)


def _check_same_network(
    saved: dict[str, Any], wanted: dict[str, Any], workdir: str) -> None:
  """Raises ConfigError, naming the fields, if a checkpoint cannot fit.

  Args:
    saved: the note of the run that is there.
    wanted: the note of the run that is to continue it.
    workdir: of both.
  """
  fields = config_changes.network_differences(
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


def _check_same_run(
    saved: dict[str, Any], wanted: dict[str, Any], workdir: str,
    accept_config_changes: bool) -> None:
  """Says what differs; raises ConfigError where it bends the run."""
  there, here = (
      config_lib.from_dict(note['config']) for note in (saved, wanted))
  free, bending = [], []
  for line in config_changes.differences(there, here):
    is_free = config_changes.is_free(line.split(':')[0])
    (free if is_free else bending).append(line)
  count = saved.get('num_examples', wanted['num_examples'])
  if count != wanted['num_examples']:
    bending.append(f'images of {here.data}: {count}, {wanted["num_examples"]}')
  if bending and not accept_config_changes:
    raise config_lib.ConfigError(
        f'{workdir} was begun otherwise; these differ (there, here): '
        f'{"; ".join(bending)}. Take the same, or another --workdir, or '
        '--accept_config_changes to go on with what is here')
  if not jax.process_index():
    for line in free + bending:
      logging.info('note: the config changed since the last save: %s', line)

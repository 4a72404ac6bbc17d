"""The processes of a job: how they find each other.

On TPU VMs and under Slurm they do so by themselves; elsewhere each is told:

    --coordinator=HOST:PORT --num_processes=N --process_id=I

Process 0 is the coordinator, which the others reach at HOST:PORT.
"""

from absl import flags
from absl import logging

from byol_jax import config as config_lib
from byol_jax import peers
from byol_jax import platforms
from byol_jax import rendezvous
from byol_jax import stopping

_COORDINATOR = flags.DEFINE_string(
    'coordinator', None,
    'HOST:PORT of process 0, as the other processes reach it.')
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'How many processes the job has.', lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'Of this process, from 0.', lower_bound=0)
_JOIN_TIMEOUT = flags.DEFINE_integer(
    'join_timeout_secs', 300,
    'How long the processes may take to find each other.', lower_bound=1)
_PEER_TIMEOUT = flags.DEFINE_integer(
    'peer_timeout_secs', 60,
    'Without a sign of life from a process, after which the others stop.',
    lower_bound=2)
_HANG_TIMEOUT = flags.DEFINE_integer(
    'hang_timeout_secs', 1800,
    'Without progress of a process that the others wait for, after which they '
    'stop.', lower_bound=2)

# Process 0 may go on for long after the others are done, with the report.
_SHUTDOWN_TIMEOUT_SECS = 3600


def join() -> None:
  """Finds the other processes, if there are any, and watches them.

  To be called before anything asks JAX for its devices.

  Raises:
    ConfigError: for flags that do not belong together.
    UnfinishedError: when the processes do not find each other in time.
  """
  told = _told()
  if told:
    rendezvous.meet(*told.values(), timeout_secs=_JOIN_TIMEOUT.value)
    platforms.have_threads_of_one_process(_NUM_PROCESSES.value)
  import jax
  # JAX's own listener to SIGTERM would take the place of ours.
  jax.config.update('jax_enable_preemption_service', False)
  missed = (
      f'the processes did not find each other in {_JOIN_TIMEOUT.value} seconds')
  try:
    with peers.aborting(missed):
      jax.distributed.initialize(
          # Told processes are not to be numbered, nor to have their devices
          # chosen, by a scheduler that they happen to run under.
          **told, cluster_detection_method='deactivate' if told else None,
          initialization_timeout=_JOIN_TIMEOUT.value,
          # Ours is the shorter one, and says more.
          heartbeat_timeout_seconds=2 * _PEER_TIMEOUT.value + 40,
          shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT_SECS)
  except ValueError as error:
    if told or 'coordinator_address' not in str(error):
      raise config_lib.ConfigError(f'the processes: {error}') from error
    return  # On no cluster that JAX knows: this process is alone.
  except RuntimeError as error:
    # One host may only be slow to start, and is there the next time.
    raise stopping.UnfinishedError(
        f'{missed} ({str(error).splitlines()[0][:200]})') from error
  if jax.process_index():  # what all would say, the first one says
    logging.set_verbosity(logging.WARNING)
  if jax.process_count() > 1:
    peers.watch(
        timeout_secs=_PEER_TIMEOUT.value, hang_secs=_HANG_TIMEOUT.value)


def _told() -> dict[str, str | int]:
  """What the flags say, as arguments of `jax.distributed.initialize`."""
  told = {
      'coordinator_address': _COORDINATOR.value,
      'num_processes': _NUM_PROCESSES.value, 'process_id': _PROCESS_ID.value}
  given = {name: value for name, value in told.items() if value is not None}
  if given and len(given) < len(told):
    raise config_lib.ConfigError(
        '--coordinator, --num_processes and --process_id go together; '
        f'{", ".join(given)} alone was given')
  if given:
    rendezvous.parse(_COORDINATOR.value)
  if given and _PROCESS_ID.value >= _NUM_PROCESSES.value:
    raise config_lib.ConfigError(
        f'--process_id={_PROCESS_ID.value} with --num_processes='
        f'{_NUM_PROCESSES.value}: they are counted from 0')
  return given

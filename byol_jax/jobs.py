"""What every job shares: how it starts, and how it ends on a user's slip."""

from collections.abc import Callable
from collections.abc import Sequence
import gc
import itertools
import logging as python_logging
import os
import pathlib
import sys
import traceback

from absl import app
from absl import flags
from absl import logging

from byol_jax import config as config_lib
from byol_jax import failures
from byol_jax import host_memory
from byol_jax import peers
from byol_jax import platforms
from byol_jax import quiet_orbax
from byol_jax import stopping
from byol_jax import terminal


def _fail(message: object) -> None:
  _say(message)
  sys.exit(1)


def _say(message: object) -> None:
  line = ' '.join(str(message).split())
  print(f'error: {line}', file=sys.stderr, flush=True)


def _show_own_lines() -> None:
  """Shows what this package says, plainly; of libraries, only warnings."""
  package = os.path.dirname(os.path.abspath(__file__))
  logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  handler.python_handler.setStream(sys.stderr)  # as it is by now
  handler.setFormatter(python_logging.Formatter('%(message)s'))
  handler.addFilter(
      lambda record: record.levelno >= python_logging.WARNING
      or record.pathname.startswith(package))


# What loading a config file, or overriding its fields, may raise.
CONFIG_ERRORS = (
    AttributeError, ImportError, KeyError, NameError, OSError, SyntaxError,
    TypeError, ValueError)


def _check_config_file(argv: Sequence[str]) -> None:
  """A file that cannot be loaded would be reported only when it is used."""
  for argument, following in itertools.zip_longest(
      argv, argv[1:], fillvalue=''):
    name, equals, value = argument.partition('=')
    path = (value if equals else following).partition(':')[0]
    if name in ('-config', '--config') and path and not os.path.isfile(path):
      _fail(
          f'--config={path}: there is no such file; expected one like '
          'configs/quickstart.py')


def without_traceback(message: str) -> str:
  """A config file's ValueError reaches absl with its traceback as text."""
  if 'Traceback' not in message:
    return message
  last = message.strip().splitlines()[-1]
  return f'--config: {last.partition("Error: ")[2] or last}'


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the command line; any slip in it ends in one line."""
  app.define_help_flags()
  try:
    _check_config_file(argv)
    return flags.FLAGS(argv)
  except flags.Error as error:
    _fail(f'{without_traceback(str(error))} (--help lists the flags)')
  except CONFIG_ERRORS as error:
    # The text of a KeyError would be quoted; that of a SyntaxError is more
    # than its first argument.
    quoted = isinstance(error, KeyError) and error.args
    _fail(f'--config: {error.args[0] if quoted else error}')
  return []


def check_writable(flag: str, path: pathlib.Path) -> None:
  """Raises ConfigError before minutes of work, not after."""
  target = path if path.exists() else path.parent
  if path.is_dir() or not path.parent.is_dir() or not os.access(
      target, os.W_OK):
    raise config_lib.ConfigError(
        f'{flag}={path} cannot be written; expected a file in a folder that '
        'exists and may be written')


def run(
    main: Callable[[Sequence[str]], None],
    join: Callable[[], None] = lambda: None) -> None:
  """Runs `main(argv)`; what a user can mend ends it with one line, code 1.

  Where it was asked to stop and can go on, the code is `stopping.RUN_AGAIN`.

  Args:
    main: the job.
    join: finds other processes, where a job can have them.
  """
  def guarded(argv: Sequence[str]) -> None:
    host_memory.start_with_large_pages()
    # Imports and tracing make millions of objects that stay: to look through
    # them as often as Python does is a sixth of a start.
    gc.set_threshold(50_000, 20, 20)
    terminal.keep_on()
    host_memory.keep()
    platforms.leave_out_absent_tpu()
    platforms.keep_convolutions_from_ynnpack()
    _show_own_lines()
    quiet_orbax.quieten()
    if len(argv) > 1:
      _fail(f'unexpected argument {argv[1]!r} (--help lists the flags)')
    try:
      # Also before the job listens itself: imports and the others' coming take
      # their time.
      with stopping.requests(at_once=True):
        join()
        peers.run(lambda: main(argv))
    except (config_lib.ConfigError, FloatingPointError, OSError) as error:
      _say(error)
      _leave(1, f'{error}')
    except stopping.PreemptedAtOnce as error:
      print(error, flush=True)
      # JAX may have been compiling, and goes on: Python, as it ends, would wait
      # for that, and then crash. What `atexit` would keep is not kept.
      _leave(error.code, f'{error}', terminal.leave)
    except stopping.UnfinishedError as error:
      print(error, flush=True)
      _leave(error.code, f'{error}')
    except Exception as error:
      _leave(_report(error), f'{type(error).__name__}: {error}')
    peers.part(0)

  app.run(guarded, flags_parser=_parse_flags)


def _report(error: Exception) -> int:
  """Says what no user's slip brought about; the code to leave with."""
  if _is_of_remote_files(error):
    _say(error)
    return stopping.RUN_AGAIN if _may_pass(error) else 1
  if failures.is_of_a_store(error):
    _say(f'a checkpoint is out of reach ({failures.reason(error)}): run the '
         'same command again')
    return stopping.RUN_AGAIN
  traceback.print_exc()
  if failures.is_of_a_device(error):
    _say(f'a device failed ({failures.reason(error)}): run the same command '
         'again to go on from the last checkpoint')
    return stopping.RUN_AGAIN
  return 1


def _is_of_remote_files(error: Exception) -> bool:
  """What TensorFlow raises in place of OSError where paths are gs://."""
  return type(error).__module__.startswith('tensorflow.') and '://' in str(
      error)


def _may_pass(error: Exception) -> bool:
  """Whether the other side was only out of reach, or busy."""
  return type(error).__name__ in (
      'UnavailableError', 'DeadlineExceededError', 'AbortedError')


def _leave(
    code: int, why: str, leave: Callable[[int], None] = sys.exit) -> None:
  peers.part(code, ' '.join(why.split())[:500])
  leave(code)

"""What every job shares: how it starts, and how it ends on a user's slip."""

from collections.abc import Callable, Sequence
import sys

from absl import app
from absl import flags

from byol_jax import config as config_lib


def _fail(message: object) -> None:
  line = ' '.join(str(message).split())
  print(f'error: {line}', file=sys.stderr)
  sys.exit(1)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the command line; any slip in it ends in one line."""
  app.define_help_flags()
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    _fail(f'{error} (--help lists the flags)')
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    # From the config file's own code, or from a --config. override.
    _fail(f'--config: {error}')
  return []


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Runs `main(argv)`; a `ConfigError` ends it with one line and exit code 1.
  """
  def guarded(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      _fail(f'unexpected argument {argv[1]!r} (--help lists the flags)')
    try:
      main(argv)
    except config_lib.ConfigError as error:
      _fail(error)

  app.run(guarded, flags_parser=_parse_flags)

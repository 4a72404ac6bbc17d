"""Measures images per second of the input, the step, or the whole loop.

    python -m byol_jax.benchmark --what=input|step|loop --json=FILE \
        [--config=configs/quickstart.py] [--config.FIELD=VALUE ...]

`input` is the host's pipeline alone, on the config's data. `step` is the
compiled step alone, on one batch that stays on the devices. `loop` is the loop
around it as users run it, fed with ready-made batches from the host, beside
`step` in the same process, in turn.
"""

from collections.abc import Sequence
import json
import os
import pathlib

from absl import flags
from ml_collections import config_flags

from byol_jax import config as config_lib
from byol_jax import jobs

_WHAT = flags.DEFINE_enum(
    'what', 'step', ['input', 'step', 'loop'], 'What to measure.')
_JSON = flags.DEFINE_string('json', None, 'Where to write the figures.')
_CONFIG = config_flags.DEFINE_config_file(
    'config', 'configs/quickstart.py', 'What to run.')
_WINDOWS = flags.DEFINE_integer(
    'windows', 5, 'Windows; the median counts.', lower_bound=1)
_STEPS = flags.DEFINE_integer(
    'steps', 20, 'Steps in a window.', lower_bound=1)


def _check_writable(path: pathlib.Path) -> None:
  """Raises ConfigError before minutes of measuring, not after."""
  target = path if path.exists() else path.parent
  if path.is_dir() or not path.parent.is_dir() or not os.access(
      target, os.W_OK):
    raise config_lib.ConfigError(
        f'--json={path} cannot be written; expected a file in a folder that '
        'exists and may be written')


def main(_: Sequence[str]) -> None:
  if _JSON.value:
    _check_writable(pathlib.Path(_JSON.value))
  # Imported here, so that --help answers at once.
  from byol_jax.training import loop
  from byol_jax.training import throughput
  setup = loop.set_up(_CONFIG.value)
  result = {
      'what': _WHAT.value, 'encoder': setup.config.encoder,
      'image_size': setup.config.image_size,
      'batch_size': setup.config.batch_size, 'steps': _STEPS.value,
      **throughput.MEASURES[_WHAT.value](setup, _WINDOWS.value, _STEPS.value),
      **throughput.describe_machine()}
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=2) + '\n')
  for name, value in result.items():
    print(f'{name}: {value}')


if __name__ == '__main__':
  jobs.run(main)

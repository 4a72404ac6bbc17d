"""Pretrains an encoder with BYOL.

    python -m byol_jax.pretrain --config=configs/quickstart.py --workdir=DIR \
        [--config.FIELD=VALUE ...]

Running it again on the same workdir continues it. From Python:

    from byol_jax.pretrain import pretrain
    pretrain(config, workdir, encoder=my_flax_module)
"""

from collections.abc import Sequence
import time

from absl import flags
import ml_collections
from ml_collections import config_flags

from byol_jax import compilation_cache
from byol_jax import config_rules
from byol_jax import jobs
from byol_jax import places
from byol_jax import processes

_BEGIN = time.monotonic()

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A file of configs/, with an argument after a colon.')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where checkpoints, metrics and the report go.')
_ACCEPT_CONFIG_CHANGES = flags.DEFINE_bool(
    'accept_config_changes', False,
    'Continue a run also with fields that change what the rest of it does.')


def pretrain(
    config: ml_collections.ConfigDict, workdir: str, encoder=None, *,
    accept_config_changes: bool = False,
    job_begin: float | None = None) -> None:
  """See `byol_jax.training.loop.pretrain`."""
  # Imported here, so that --help answers at once.
  from byol_jax.training import loop
  loop.pretrain(
      config, workdir, encoder, accept_config_changes=accept_config_changes,
      job_begin=job_begin)


def main(_: Sequence[str]) -> None:
  # What it can know alone, before the seconds that imports take.
  config_rules.validate(_CONFIG.value)
  places.check_data(_CONFIG.value.data)
  compilation_cache.use()
  pretrain(
      _CONFIG.value, _WORKDIR.value,
      accept_config_changes=_ACCEPT_CONFIG_CHANGES.value, job_begin=_BEGIN)


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  jobs.run(main, processes.join)

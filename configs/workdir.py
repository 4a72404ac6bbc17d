"""The config of a run that is there, as its workdir's config.json has it.

    python -m byol_jax.pretrain --config=configs/workdir.py:WORKDIR \
        --workdir=WORKDIR

That continues it, also where the run was imported and no file of `configs/`
made it. With another `--workdir` it is repeated. Cost and figure are the
run's own.
"""

import json

from etils import epath
import ml_collections

from byol_jax import config as config_lib


def get_config(workdir: str = '') -> ml_collections.ConfigDict:
  path = epath.Path(workdir) / 'config.json'
  if not workdir or not path.is_file():
    raise ValueError(
        f'there is no {path}; expected a workdir after a colon: '
        '--config=configs/workdir.py:WORKDIR')
  return config_lib.from_dict(json.loads(path.read_text()))

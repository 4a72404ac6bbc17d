"""Makes a workdir of a checkpoint that DeepMind's original BYOL has written.

    python -m byol_jax.import_deepmind --input=pretrain_res50x1.pkl \
        --output=WORKDIR [--config=configs/NAME.py [--config.FIELD=VALUE ...]]

Nothing in the file is run, and neither the original nor dill, Haiku or optax
of its time is needed. The encoder, its width and the heads are found in the
file. Data and schedules are not in it: they are those of --config, and without
it of the original's preset of 1000 epochs. WORKDIR then evaluates, exports,
loads and resumes like that of any run; see the lines printed at the end.

DeepMind's published weights are licensed CC BY-NC 4.0, which WORKDIR's
origin.json says; give --licence for weights of your own.
"""

from collections.abc import Sequence
import json

from absl import flags
from etils import epath
from ml_collections import config_flags

from byol_jax import jobs
from byol_jax import places

_INPUT = flags.DEFINE_string('input', None, 'The checkpoint, a .pkl file.')
_OUTPUT = flags.DEFINE_string(
    'output', None, 'The workdir to make; must hold no checkpoint yet.')
_LICENCE = flags.DEFINE_string(
    'licence', 'CC BY-NC 4.0', 'Of the weights.')
_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A file of configs/, for data and schedules.')


def main(_: Sequence[str]) -> None:
  """Imports, and says what to do with it."""
  places.check_file(_INPUT.value, _INPUT.value)
  # Imported here, so that --help answers at once.
  from byol_jax.interchange import deepmind_workdir
  step = deepmind_workdir.import_checkpoint(
      _INPUT.value, _OUTPUT.value, _CONFIG.value, _LICENCE.value)
  workdir = _OUTPUT.value
  fields = json.loads((epath.Path(workdir) / 'config.json').read_text())
  print(
      f'imported {_INPUT.value}: {fields["encoder"]} of width '
      f'{fields["resnet"]["width"]:g} after {step} updates; weights: '
      f'{_LICENCE.value}\n'
      f'evaluate  python -m byol_jax.evaluate --checkpoint={workdir} '
      '--protocol=knn\n'
      f'load      byol_jax.load_encoder({workdir!r})\n'
      'resume    python -m byol_jax.pretrain '
      f'--config=configs/workdir.py:{workdir} --workdir={workdir}')


if __name__ == '__main__':
  flags.mark_flags_as_required(['input', 'output'])
  jobs.run(main)

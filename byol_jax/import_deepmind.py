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
import hashlib
import json
import pathlib

from absl import flags
import ml_collections
from ml_collections import config_flags

from byol_jax import config as config_lib
from byol_jax import jobs

_INPUT = flags.DEFINE_string('input', None, 'The checkpoint, a .pkl file.')
_OUTPUT = flags.DEFINE_string(
    'output', None, 'The workdir to make; must hold no checkpoint yet.')
_LICENCE = flags.DEFINE_string(
    'licence', 'CC BY-NC 4.0', 'Of the weights.')
_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A file of configs/, for data and schedules.')


def import_checkpoint(
    path: str, workdir: str, config: ml_collections.ConfigDict | None = None,
    licence: str = 'CC BY-NC 4.0',
) -> int:
  """Writes a checkpoint of the original as that of a run.

  Args:
    path: of the file; it may come from anyone.
    workdir: made if it is not there; gets `checkpoints/`, `config.json`, and
      `origin.json` with the keys source, file, sha256 and licence.
    config: for what the file does not say; None is the base config. What the
      file does say, and what the original's code fixes, is set in a copy.
    licence: of the weights.

  Returns:
    The number of updates that the network has had.

  Raises:
    ConfigError: if `workdir` holds a checkpoint, or the file is refused.
  """
  # Imported here, so that --help answers at once.
  from byol_jax.interchange import deepmind_checkpoint
  from byol_jax.training import checkpoint
  folder = pathlib.Path(workdir)
  # An import that was interrupted leaves none that is finished.
  if any(entry.name.isdigit() for entry in folder.glob('checkpoints/*')):
    raise config_lib.ConfigError(
        f'{workdir} holds checkpoints of a run: take another --output')
  if config is None:
    config = config_lib.get_base_config()
  config_lib.validate(config)
  imported = deepmind_checkpoint.read(path, config)
  folder.mkdir(parents=True, exist_ok=True)
  fields = config_lib.to_dict(imported.config)
  (folder / 'config.json').write_text(json.dumps(fields, indent=2) + '\n')
  (folder / 'origin.json').write_text(json.dumps(
      _origin(path, licence), indent=2) + '\n')
  step = int(imported.state.step)
  checkpoints = checkpoint.Checkpoints(workdir)
  try:
    checkpoints.save(step, imported.state, {
        'config': fields, 'num_classes': imported.num_classes,
        'custom_encoder': None,
        'examples_seen': step * imported.config.batch_size,
        'seconds': 0.0, 'wall_seconds': 0.0})
  finally:
    checkpoints.close()
  return step


def _origin(path: str, licence: str) -> dict[str, str]:
  with open(path, 'rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
  return {
      'source': "DeepMind's BYOL (google-deepmind/deepmind-research, byol/), "
                'or a run of its code',
      'file': pathlib.Path(path).name, 'sha256': digest, 'licence': licence}


def main(_: Sequence[str]) -> None:
  """Imports, and says what to do with it."""
  step = import_checkpoint(
      _INPUT.value, _OUTPUT.value, _CONFIG.value, _LICENCE.value)
  workdir = _OUTPUT.value
  fields = json.loads((pathlib.Path(workdir) / 'config.json').read_text())
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

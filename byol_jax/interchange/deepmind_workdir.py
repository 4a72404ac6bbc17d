"""A workdir made of a checkpoint that DeepMind's original has written."""

import hashlib
import json

from etils import epath
import ml_collections

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.interchange import deepmind_checkpoint
from byol_jax.training import checkpoint


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
  folder = epath.Path(workdir)
  # An import that was interrupted leaves none that is finished.
  saved = folder / 'checkpoints'
  if saved.is_dir() and any(path.name.isdigit() for path in saved.iterdir()):
    raise config_lib.ConfigError(
        f'{workdir} holds checkpoints of a run: take another --output')
  if config is None:
    config = config_lib.get_base_config()
  config_rules.validate(config)
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
      'file': epath.Path(path).name, 'sha256': digest, 'licence': licence}

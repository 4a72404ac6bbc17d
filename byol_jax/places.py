"""Whether what a user names is there: asked before the seconds of imports."""

import os

from etils import epath

from byol_jax import config as config_lib

# Of `config.data`, what is a folder on a local disk.
_FOLDERS = ('folder', 'voc', 'cityscapes', 'pairs')


def check_folder(path: str, what: str) -> None:
  """Raises ConfigError, which begins with `what`, unless it is one."""
  if not os.path.isdir(os.path.expanduser(path)):
    raise config_lib.ConfigError(f'{what}: there is no such folder')


def check_file(path: str, what: str) -> None:
  """Raises ConfigError, which begins with `what`, unless it is one."""
  if not os.path.isfile(path):
    raise config_lib.ConfigError(f'{what}: there is no such file')


def check_data(data: str) -> None:
  """Raises ConfigError for a local folder or file that is not there.

  Args:
    data: as `config.data`. Datasets by name, patterns of files, and what is
      not on a local disk are for those who open them.
  """
  kind, _, path = data.partition(':')
  if '://' in path:
    return
  if kind in _FOLDERS:
    check_folder(path, data)
  elif kind == 'arrays':
    check_file(os.path.expanduser(path), data)


def check_checkpoints(workdir: str) -> None:
  """Raises ConfigError where nothing was ever saved, on a disk or on gs://."""
  if not _open(workdir, 'checkpoints').is_dir():
    raise config_lib.ConfigError(
        f'no checkpoint in {workdir}: expected the --workdir of a '
        'byol_jax.pretrain run')


def check_run(workdir: str) -> None:
  """Raises ConfigError where no run was ever begun, on a disk or on gs://."""
  if not _open(workdir, 'config.json').exists():
    raise config_lib.ConfigError(
        f'no config.json in {workdir}: expected the --workdir of a '
        'byol_jax.pretrain run')


def _open(workdir: str, name: str) -> epath.Path:
  """What is called `name` there."""
  if '://' in f'{workdir}':
    # What reads it otherwise imports TensorFlow as it likes.
    from byol_jax import quiet_tensorflow  # noqa: F401
  return epath.Path(workdir) / name

"""The folder of an export: nobody else's files, and all of it or nothing."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import shutil

from byol_jax import config as config_lib


def check(folder: pathlib.Path, kind: str) -> None:
  """Raises ConfigError unless it is new, empty, or an export of that format."""
  if folder.exists() and not folder.is_dir():
    raise config_lib.ConfigError(f'--output={folder} is a file: take a folder')
  if not folder.exists() or not any(folder.iterdir()):
    return
  if (folder / 'checkpoints').exists():
    raise config_lib.ConfigError(
        f'--output={folder} is a workdir, whose config.json an export would '
        'replace: take another folder')
  try:
    found = json.loads((folder / 'config.json').read_text())['format']
  except (OSError, ValueError, KeyError, TypeError):
    found = None
  if found != kind:
    what = f'an export of format {found}' if found else 'files of yours'
    raise config_lib.ConfigError(
        f'--output={folder} holds {what}: take a new folder, or one with an '
        f'export of format {kind}, which is replaced')


@contextlib.contextmanager
def fill(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a folder to write to; what is in it at the end goes to `folder`.

  If the writing fails, `folder` stays as it was.
  """
  parent = folder if folder.exists() else folder.parent  # one file system
  made = parent / f'.{folder.name}.unchecked{os.getpid()}'
  made.mkdir(parents=True)
  try:
    yield made
    folder.mkdir(exist_ok=True)
    for path in made.iterdir():
      target = folder / path.name
      if target.is_dir():
        shutil.rmtree(target)
      path.replace(target)
  finally:
    shutil.rmtree(made)

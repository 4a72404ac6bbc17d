"""What a long job has done so far, on disk until the whole of it is done."""

from collections.abc import Mapping
import io
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np


class Progress:
  """Results of a job's parts, by name.

  Each process keeps its own, so that none waits for another's file. Results of
  a job with other settings are thrown away.
  """

  def __init__(
      self, directory: str | pathlib.Path | None,
      settings: Mapping[str, Any] | None = None):
    """Opens what is there.

    Args:
      directory: of this job; None: nothing is kept.
      settings: JSON's types; results of any others are of another job.
    """
    self._directory = None
    if directory is None:
      return
    self._directory = pathlib.Path(directory) / f'process{jax.process_index()}'
    note = json.dumps(settings, sort_keys=True)
    path = self._directory / 'settings.json'
    if self._directory.exists() and (
        not path.exists() or path.read_text() != note):
      shutil.rmtree(self._directory)
    self._directory.mkdir(parents=True, exist_ok=True)
    path.write_text(note)

  def get(self, name: str) -> dict[str, Any] | None:
    """What `put` was given, as NumPy arrays; None if there is nothing."""
    if self._directory is None:
      return None
    path = self._directory / f'{name}.npz'
    if not path.exists():
      return None
    with np.load(path) as archive:
      return {key: archive[key][()] for key in archive.files}

  def put(self, name: str, values: Mapping[str, Any]) -> None:
    """Keeps arrays and numbers, all or nothing, whenever the job may end."""
    if self._directory is None:
      return
    contents = io.BytesIO()
    np.savez(contents, **values)
    path = self._directory / f'{name}.npz'
    unfinished = path.with_suffix('.tmp')
    unfinished.write_bytes(contents.getvalue())
    unfinished.rename(path)

  def place(self, name: str) -> str | None:
    """A directory for what saves itself, such as a fit's checkpoints.

    The same for all processes, which save together.
    """
    if self._directory is None:
      return None
    return str(self._directory.parent / name)

  def child(self, name: str) -> 'Progress':
    """Of a part that has parts itself."""
    child = Progress(None)
    if self._directory is not None:
      child._directory = self._directory / name
      child._directory.mkdir(exist_ok=True)
    return child

  def finish(self) -> None:
    """Throws all of it away: the job is done, and its result elsewhere."""
    if self._directory is not None:
      shutil.rmtree(self._directory.parent, ignore_errors=True)

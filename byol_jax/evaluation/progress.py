"""What a long job has done so far, on disk until the whole of it is done."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import io
from typing import Any

from etils import epath
import jax
import numpy as np

from byol_jax import files
from byol_jax import locks
from byol_jax.training import agreement


class Progress:
  """Results of a job's parts, by name.

  Each process keeps its own, so that none waits for another's file; what all
  make together, the first one keeps. Whose work it is, the directory has to
  say: what is found there is taken as it is.
  """

  def __init__(self, directory: epath.PathLike | None):
    """Opens what is there; None: nothing is kept."""
    self._directory = None
    if directory is not None:
      self._directory = (
          epath.Path(directory) / f'process{jax.process_index()}')
      self._directory.mkdir(parents=True, exist_ok=True)

  def get(self, name: str) -> dict[str, Any] | None:
    """What `put` was given, as NumPy arrays; None if there is nothing."""
    if self._directory is None:
      return None
    path = self._directory / f'{name}.npz'
    if not path.exists():
      return None
    with np.load(io.BytesIO(path.read_bytes())) as archive:
      return {key: archive[key][()] for key in archive.files}

  def put(self, name: str, values: Mapping[str, Any]) -> None:
    """Keeps arrays and numbers, all or nothing, whenever the job may end."""
    if self._directory is None:
      return
    contents = io.BytesIO()
    np.savez(contents, **values)
    files.write_whole(self._directory / f'{name}.npz', contents.getvalue())

  def keep(
      self, name: str, run: Callable[[], Iterable[tuple[str, float]]]
  ) -> dict[str, float]:
    """The figures that were put there, or else those of `run`, put there.

    All processes take part in `run`, or none: as the first one finds it.
    """
    figures = self.recall(name)
    if figures is None:
      figures = {key: float(value) for key, value in run()}
      self.note(name, figures)
    return figures

  def recall(self, name: str) -> dict[str, float] | None:
    """What the first process has noted, in all of them."""
    figures = None if jax.process_index() else self.get(name)
    return agreement.of_first(figures and {
        key: float(value) for key, value in figures.items()})

  def note(self, name: str, figures: Mapping[str, float]) -> None:
    """Puts figures that all processes have, for `recall`."""
    if not jax.process_index():
      self.put(name, figures)

  def place(self, name: str) -> str | None:
    """A directory for what saves itself, such as a fit's checkpoints.

    The same for all processes, which save together.
    """
    if self._directory is None:
      return None
    return str(self._directory.parent / name)


@contextlib.contextmanager
def lock(directory: epath.PathLike | None) -> Iterator[None]:
  """Keeps a directory for this job; given back however the job ends.

  Raises:
    ConfigError: another job has it.
  """
  if directory is None:
    yield
    return
  path = epath.Path(directory)
  path.mkdir(parents=True, exist_ok=True)
  with locks.hold(path / f'process{jax.process_index()}.lock', f'{path}'):
    yield

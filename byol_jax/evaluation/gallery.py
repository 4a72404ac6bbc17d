"""WORKDIR/neighbors.npz: a few images with what is nearest to them."""

import dataclasses
import io

from etils import epath
import numpy as np

from byol_jax import files

_FILE = 'neighbors.npz'


@dataclasses.dataclass(frozen=True)
class Gallery:
  """Pictures of queries and of what is nearest to them.

  Attributes:
    query: u8[Q, S, S, 3].
    neighbor: u8[Q, K, S, S, 3], the nearest first.
    cosine: f32[Q, K], of the embeddings.
    query_label: i32[Q], or None.
    neighbor_label: i32[Q, K], or None.
    class_names: of the labels; empty where there are none.
  """

  query: np.ndarray
  neighbor: np.ndarray
  cosine: np.ndarray
  query_label: np.ndarray | None
  neighbor_label: np.ndarray | None
  class_names: tuple[str, ...]

  def write(self, workdir: epath.PathLike) -> None:
    """Writes WORKDIR/neighbors.npz, for the report."""
    columns = dataclasses.asdict(self)
    columns['class_names'] = np.asarray(self.class_names, np.str_)
    contents = io.BytesIO()
    np.savez_compressed(
        contents, **{k: x for k, x in columns.items() if x is not None})
    files.write_whole(epath.Path(workdir) / _FILE, contents.getvalue())


def read(workdir: epath.PathLike) -> Gallery | None:
  """What `write` wrote, or None."""
  path = epath.Path(workdir) / _FILE
  if not path.exists():
    return None
  contents = io.BytesIO(path.read_bytes())
  with np.load(contents, allow_pickle=False) as columns:
    found = {k: columns[k] for k in columns.files}
  found['class_names'] = tuple(str(name) for name in found['class_names'])
  return Gallery(**{
      field.name: found.get(field.name)
      for field in dataclasses.fields(Gallery)})

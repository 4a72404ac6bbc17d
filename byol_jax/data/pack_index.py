"""The index of packed TFRecord files: what and where each record is.

Beside SPLIT-00000-of-00016.tfrecord and the others `byol_jax.pack` writes
_SPLIT.index.npz, so that nobody needs to scan the files. Its arrays are those
of `PackIndex`.
"""

from collections.abc import Sequence
import concurrent.futures
import dataclasses
import io
import os
import re
import zipfile

from absl import logging
import numpy as np
import tensorflow as tf

from byol_jax.data import records
from byol_jax.data import remote

_SHARD = re.compile(r'(.+)-\d+-of-\d+\.tfrecord')
_THREADS = 16


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PackIndex:
  """S files, which hold N records."""
  shard: np.ndarray  # str [S], the files' names
  shard_sha256: np.ndarray  # str [S], of the files, in hexadecimal
  shard_count: np.ndarray  # int64 [S], of records, at least one
  length: np.ndarray  # int64 [N], of the records' data, in bytes
  crc32: np.ndarray  # uint32 [N], zlib's, of the images' bytes
  size: np.ndarray  # int32 [N, 2], the images' height and width
  label: np.ndarray  # int32 [N], or [0] where there are no labels
  name: np.ndarray  # uint8, the images' names, with a zero after each

  @property
  def shard_bytes(self) -> np.ndarray:
    """int64 [S], of the files."""
    starts = np.cumsum(self.shard_count) - self.shard_count
    return np.add.reduceat(self.length + records.FRAME_BYTES, starts)

  def read_names(self) -> list[str]:
    """The images' names, as the folder had them."""
    names = self.name.tobytes().split(b'\0')
    return [os.fsdecode(name) for name in names[:-1]]

  def locate(self, paths: Sequence[str]) -> records.RecordIndex:
    """Where the records are, if the files are at `paths`."""
    whole = self.length + records.FRAME_BYTES
    file = np.repeat(np.arange(len(paths), dtype=np.int32), self.shard_count)
    file_starts = np.cumsum(self.shard_bytes) - self.shard_bytes
    return records.RecordIndex(
        paths=tuple(paths), file=file,
        offset=np.cumsum(whole) - whole - file_starts[file])


def join(parts: Sequence[PackIndex]) -> PackIndex:
  """The index of several files, from those of each."""
  return PackIndex(**{
      field.name: np.concatenate([getattr(part, field.name) for part in parts])
      for field in dataclasses.fields(PackIndex)})


def split_up(index: PackIndex) -> dict[str, PackIndex]:
  """The index of each file, by its name."""
  ends = np.cumsum(index.shard_count)[:-1]
  name_ends = (np.flatnonzero(index.name == 0) + 1)[ends - 1]
  pieces = {'name': np.split(index.name, name_ends)}
  for key in ('length', 'crc32', 'size'):
    pieces[key] = np.split(getattr(index, key), ends)
  pieces['label'] = (np.split(index.label, ends) if len(index.label)
                     else [index.label] * len(index.shard))
  return {
      str(shard): PackIndex(
          shard=index.shard[i:i + 1], shard_sha256=index.shard_sha256[i:i + 1],
          shard_count=index.shard_count[i:i + 1],
          **{key: piece[i] for key, piece in pieces.items()})
      for i, shard in enumerate(index.shard)}


def path_of(folder: str, split: str) -> str:
  """Where the index of a split is."""
  return os.path.join(folder, f'_{split}.index.npz')


def save(path: str, index: PackIndex) -> None:
  """Writes it, whole or not at all."""
  buffer = io.BytesIO()
  np.savez(buffer, **{field.name: getattr(index, field.name)
                      for field in dataclasses.fields(index)})
  remote.write_whole(path, buffer.getvalue())


def load(path: str) -> PackIndex | None:
  """Reads it; None where there is none, or one that is damaged."""
  if not tf.io.gfile.exists(path):
    return None
  try:
    with tf.io.gfile.GFile(path, 'rb') as file:
      with np.load(file, allow_pickle=False) as arrays:
        index = PackIndex(**arrays)
    _check(index)
  except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile,
          tf.errors.OpError) as error:
    logging.warning('%s cannot be used: %s', path, error)
    return None
  return index


def _check(index: PackIndex) -> None:
  """Raises ValueError unless the arrays belong together."""
  shards, examples = len(index.shard), int(index.shard_count.sum())
  names = np.count_nonzero(index.name == 0)
  if (not shards or index.shard_count.min() < 1 or
      {len(index.shard_sha256), len(index.shard_count)} != {shards} or
      {len(index.length), len(index.crc32), len(index.size), names}
      != {examples} or len(index.label) not in (0, examples)):
    raise ValueError('its arrays do not belong together')


def find(paths: Sequence[str]) -> PackIndex | None:
  """The index of TFRecord files; None where there is none that fits them.

  Args:
    paths: all files of a split, in order.
  """
  folder, name = os.path.split(paths[0])
  shard = _SHARD.fullmatch(name)
  if shard is None:
    return None
  path = path_of(folder, shard[1])
  index = load(path)
  if index is None:
    return None
  names = [os.path.basename(path) for path in paths]
  if names != list(index.shard):
    logging.warning('%s is of other files than are there: it is not used.',
                    path)
    return None
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    sizes = list(pool.map(lambda path: remote.state(path)[0], paths))
  for name, found, expected in zip(
      names, sizes, index.shard_bytes, strict=True):
    if found != expected:
      logging.warning(
          '%s is not used: %s has %d bytes, it says %d.', path, name, found,
          expected)
      return None
  return index

"""Random access to TFRecord files, by an index of where each record is.

TFRecord is a stream; shuffling it well means knowing where each record
starts. The headers are read once (twelve bytes a record), and what they say
is kept in the user's cache folder.
"""

import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
import struct

from absl import logging
import numpy as np
import tensorflow as tf

from byol_jax.config import ConfigError

# length: uint64, crc of length: uint32, data, crc of data: uint32.
_HEADER_BYTES, _FOOTER_BYTES = 12, 4
_THREADS = 16


def cache_dir() -> pathlib.Path:
  """The user's cache folder for byol_jax, made if need be."""
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  path = pathlib.Path(base, 'byol_jax')
  path.mkdir(parents=True, exist_ok=True)
  return path


@dataclasses.dataclass(frozen=True, eq=False)
class RecordIndex:
  """Where records are: `paths[file[i]]`, at `offset[i]`, `length[i]` bytes."""
  paths: tuple[str, ...]
  file: np.ndarray  # int32 [N]
  offset: np.ndarray  # int64 [N], of the data
  length: np.ndarray  # int64 [N]

  def __len__(self) -> int:
    return len(self.offset)

  def read(self, indices: np.ndarray) -> np.ndarray:
    """Records as object [n] of bytes, for int64 [n]; checks nothing."""
    records = np.empty(len(indices), object)
    for row, i in enumerate(indices):
      records[row] = _read_bytes(
          self.paths[self.file[i]], int(self.offset[i]), int(self.length[i]))
    return records


def index_records(
    paths: list[str], expected: list[int]) -> list[RecordIndex]:
  """Indexes TFRecord files.

  Args:
    paths: local, or of any file system that TensorFlow knows.
    expected: records of each file, as the dataset's description says.

  Returns:
    One index a file.

  Raises:
    ConfigError: a file is missing, cut short, or holds another number of
      records.
  """
  missing = [path for path in paths if not tf.io.gfile.exists(path)]
  if missing:
    raise ConfigError(f'{missing[0]}, a file of the dataset, is missing')
  sizes = [tf.io.gfile.stat(path).length for path in paths]
  key = hashlib.sha256(repr(list(zip(paths, sizes))).encode()).hexdigest()
  cached = cache_dir() / f'records-{key[:32]}.npz'
  offsets = _load(cached, len(paths))
  if offsets is None:
    logging.info('Indexing %d TFRecord files.', len(paths))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      offsets = list(pool.map(_scan, paths, sizes))
    _save(cached, offsets)
  for path, found, count in zip(paths, offsets, expected, strict=True):
    if len(found) != count:
      raise ConfigError(
          f'{path} holds {len(found)} records; {count} were expected')
  return [_file_index(path, found, size)
          for path, found, size in zip(paths, offsets, sizes, strict=True)]


def concatenate(indices: list[RecordIndex]) -> RecordIndex:
  """One index of all the records, in order."""
  return RecordIndex(
      paths=tuple(index.paths[0] for index in indices),
      file=np.repeat(np.arange(len(indices), dtype=np.int32),
                     [len(index) for index in indices]),
      offset=np.concatenate([index.offset for index in indices]),
      length=np.concatenate([index.length for index in indices]))


def _file_index(path: str, starts: np.ndarray, size: int) -> RecordIndex:
  ends = np.append(starts[1:], size)
  return RecordIndex(
      paths=(path,), file=np.zeros(len(starts), np.int32),
      offset=starts + _HEADER_BYTES,
      length=ends - starts - _HEADER_BYTES - _FOOTER_BYTES)


def _scan(path: str, size: int) -> np.ndarray:
  """Starts of the records' headers."""
  starts, position = [], 0
  with tf.io.gfile.GFile(path, 'rb') as file:
    while position < size:
      file.seek(position)
      header = file.read(8)
      starts.append(position)
      if len(header) == 8:
        (length,) = struct.unpack('<Q', header)
        position += _HEADER_BYTES + length + _FOOTER_BYTES
      if len(header) < 8 or position > size:
        raise ConfigError(
            f'{path} is cut short, or no TFRecord file: its record at byte '
            f'{starts[-1]} ends after the file')
  return np.array(starts, np.int64)


def _read_bytes(path: str, offset: int, length: int) -> bytes:
  if '://' in path:
    with tf.io.gfile.GFile(path, 'rb') as file:
      file.seek(offset)
      return file.read(length)
  descriptor = os.open(path, os.O_RDONLY)
  try:
    return os.pread(descriptor, length, offset)
  finally:
    os.close(descriptor)


def _load(path: pathlib.Path, num_files: int) -> list[np.ndarray] | None:
  try:
    with np.load(path, allow_pickle=False) as archive:
      counts, starts = archive['counts'], archive['starts']
  except (OSError, ValueError, KeyError):
    return None
  if len(counts) != num_files or counts.sum() != len(starts):
    return None
  return np.split(starts, np.cumsum(counts)[:-1])


def _save(path: pathlib.Path, offsets: list[np.ndarray]) -> None:
  temporary = path.with_suffix(f'.{os.getpid()}.npz')
  np.savez(temporary, counts=np.array([len(found) for found in offsets]),
           starts=np.concatenate(offsets))
  os.replace(temporary, path)

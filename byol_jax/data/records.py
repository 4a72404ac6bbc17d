"""Random access to TFRecord files, by an index of where each record is.

TFRecord is a stream; shuffling it well means knowing where each record
starts. The headers are read once (eight bytes a record; from gs:// all that is
between them, too), and what they say is kept in the user's cache folder.
"""

from collections.abc import Callable
import concurrent.futures
import dataclasses
import io
import pathlib
import struct

from absl import logging
import numpy as np
import tensorflow as tf

from byol_jax.config import ConfigError
from byol_jax.data import cache
from byol_jax.data import remote

# length: uint64, crc of length: uint32, data, crc of data: uint32.
HEADER_BYTES = 12
FRAME_BYTES = HEADER_BYTES + 4
_THREADS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class RecordIndex:
  """Where records begin: `paths[file[i]]`, at byte `offset[i]`."""
  paths: tuple[str, ...]
  file: np.ndarray  # int32 [N]
  offset: np.ndarray  # int64 [N], of the headers

  def __len__(self) -> int:
    return len(self.offset)

  def __getitem__(self, rows: slice) -> 'RecordIndex':
    return dataclasses.replace(
        self, file=self.file[rows], offset=self.offset[rows])

  def place_of(self, index: int) -> str:
    """Which record number `index` is, for messages."""
    return (f'the record at byte {self.offset[index]} of '
            f'{self.paths[self.file[index]]}')

  def make_read_fn(self) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function, for the graph, of an index (int64 scalar) to a record.

    It takes the same time wherever in its file the record is, and compares its
    checksums: one that is damaged is a `tf.errors.DataLossError`.
    """
    paths = tf.constant(self.paths)
    file, offset = tf.constant(self.file), tf.constant(self.offset)

    def read(index: tf.Tensor) -> tf.Tensor:
      # TensorFlow has no op for a part of a file, but a dataset that begins
      # in the middle of one; `tf.data.TFRecordDataset` does not offer it.
      begun = tf.raw_ops.TFRecordDatasetV2(
          filenames=paths[file[index]], compression_type='',
          buffer_size=tf.constant(0, tf.int64), byte_offsets=offset[index])
      return tf.data.experimental.from_variant(
          begun, tf.TensorSpec([], tf.string)).take(1).get_single_element()

    return read


def index_records(
    paths: list[str], expected: list[int] | None = None,
) -> list[RecordIndex]:
  """Indexes TFRecord files.

  Args:
    paths: local, or of any file system that TensorFlow knows.
    expected: records of each file, as the dataset's description says, if
      there is one.

  Returns:
    One index a file.

  Raises:
    ConfigError: a file is missing, cut short, or holds another number of
      records.
  """
  missing = [path for path in paths if not tf.io.gfile.exists(path)]
  if missing:
    raise ConfigError(f'{missing[0]}, a file of the dataset, is missing')
  states = [remote.state(path) for path in paths]
  sizes = [size for size, _ in states]
  cached = cache.cached_file('records', (paths, states), '.npz')
  offsets = _load(cached, len(paths))
  if offsets is None:
    logging.info('Indexing %d TFRecord files.', len(paths))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      offsets = list(pool.map(_scan, paths, sizes))
    _save(cached, offsets)
  counts = expected or [len(found) for found in offsets]
  for path, found, count in zip(paths, offsets, counts, strict=True):
    if len(found) != count:
      raise ConfigError(
          f'{path} holds {len(found)} records; {count} were expected')
  return [RecordIndex((path,), np.zeros(len(found), np.int32), found)
          for path, found in zip(paths, offsets, strict=True)]


def concatenate(indices: list[RecordIndex]) -> RecordIndex:
  """One index of all the records, in order."""
  return RecordIndex(
      paths=tuple(index.paths[0] for index in indices),
      file=np.repeat(np.arange(len(indices), dtype=np.int32),
                     [len(index) for index in indices]),
      offset=np.concatenate([index.offset for index in indices]))


def _scan(path: str, size: int) -> np.ndarray:
  """Starts of the records' headers."""
  starts, position = [], 0
  # Unbuffered, where that is possible, as a buffer would read all.
  with (tf.io.gfile.GFile(path, 'rb') if remote.is_remote(path)
        else open(path, 'rb', buffering=0)) as file:
    while position < size:
      file.seek(position)
      header = file.read(8)
      starts.append(position)
      if len(header) == 8:
        (length,) = struct.unpack('<Q', header)
        position += FRAME_BYTES + length
      if len(header) < 8 or position > size:
        raise ConfigError(
            f'{path} is cut short, or no TFRecord file, or a compressed one: '
            f'its record at byte {starts[-1]} ends after the file')
  return np.array(starts, np.int64)


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
  buffer = io.BytesIO()
  np.savez(buffer, counts=np.array([len(found) for found in offsets]),
           starts=np.concatenate(offsets))
  cache.remember(path, buffer.getvalue())

"""One TFRecord file of a folder's images: written, and checked.

A record is a tf.train.Example of `image/encoded`, `image/filename` and, where
there are labels, `image/class/label`: what `tfrecord_source` reads.
"""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import hashlib
import os
import pathlib
import struct
from typing import BinaryIO
import zlib

import numpy as np
import tensorflow as tf

from byol_jax.config import ConfigError
from byol_jax.data import photo
from byol_jax.data import records
from byol_jax.data.folder_index import ImageFile
from byol_jax.data.folder_index import printable
from byol_jax.data.pack_index import PackIndex

_IMAGE, _NAME, _LABEL = 'image/encoded', 'image/filename', 'image/class/label'
_CHUNK_BYTES = 2**22

# Is told how many more images and bytes are done; what it raises ends the work.
Advance = Callable[[int, int], None]


class DamagedError(ConfigError):
  """A file does not hold what was written to it; says where."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ShardPlan:
  """A file that is to be made.

  Attributes:
    name: of the file.
    root: of the images' names.
    files: the images, at least one.
    labels: of them, int32 [N], or [0] where there are none.
    max_pixels: that they were examined with.
  """
  name: str
  root: pathlib.Path
  files: list[ImageFile]
  labels: np.ndarray
  max_pixels: int


def write(plan: ShardPlan, path: str, advance: Advance) -> PackIndex:
  """Writes a file, reads it again, and compares it with the images.

  Args:
    plan: what it is to hold.
    path: where; an older file is replaced.
    advance: is called after every image.

  Returns:
    The file's index.

  Raises:
    ConfigError: an image is not as it was examined.
    DamagedError: what is read is not what was written.
    tf.errors.OpError: it cannot be written.
  """
  lengths, sums = [], []
  with tf.io.TFRecordWriter(path) as writer:
    for i, file in enumerate(plan.files):
      image = _read_image(plan, file)
      label = int(plan.labels[i]) if len(plan.labels) else None
      record = _encode(image, file.name, label)
      writer.write(record)
      lengths.append(len(record))
      sums.append(zlib.crc32(image))
      advance(1, len(image))
  index = PackIndex(
      shard=np.array([plan.name]), shard_sha256=np.array(['']),
      shard_count=np.array([len(plan.files)]),
      length=np.array(lengths, np.int64), crc32=np.array(sums, np.uint32),
      size=np.array([(f.height, f.width) for f in plan.files], np.int32),
      label=plan.labels, name=np.frombuffer(b''.join(
          os.fsencode(file.name) + b'\0' for file in plan.files), np.uint8))
  return dataclasses.replace(
      index, shard_sha256=np.array([check(path, index)]))


def _read_image(plan: ShardPlan, file: ImageFile) -> bytes:
  """A file as it is, or the PNG that the folder source would make of it."""
  path = str(plan.root / file.name)
  try:
    with open(path, 'rb') as opened:
      image = (opened.read() if file.plain
               else photo.read_as_png(path, plan.max_pixels))
      status = os.fstat(opened.fileno())
  except Exception as error:
    # Pillow's decoders raise whatever they like on damaged files.
    raise ConfigError(
        f'{printable(path)} cannot be read any more ({error}); run the same '
        'command again once it can, or pack anew without it') from error
  if (status.st_size, status.st_mtime_ns) != file.state[1:]:
    raise ConfigError(
        f'{printable(path)} has changed while the folder was packed; pack it '
        'anew once nothing writes there')
  return image


def _encode(image: bytes, name: str, label: int | None) -> bytes:
  example = tf.train.Example()
  features = example.features.feature
  features[_IMAGE].bytes_list.value.append(image)
  features[_NAME].bytes_list.value.append(os.fsencode(name))
  if label is not None:
    features[_LABEL].int64_list.value.append(label)
  # The same file whenever it is made again.
  return example.SerializeToString(deterministic=True)


def sha256(path: str, advance: Advance) -> str:
  """Of a file; `advance` is called now and then."""
  digest = hashlib.sha256()
  with tf.io.gfile.GFile(path, 'rb') as file:
    while chunk := file.read(_CHUNK_BYTES):
      digest.update(chunk)
      advance(0, len(chunk))
  return digest.hexdigest()


def check(
    path: str, index: PackIndex, advance: Advance = lambda *_: None) -> str:
  """Reads a whole file and compares it with its index.

  Args:
    path: of the file.
    index: of this file alone; its `shard_sha256` is not looked at.
    advance: is called after every record.

  Returns:
    The file's SHA-256.

  Raises:
    DamagedError: they do not agree, or a checksum of TFRecord's is wrong.
  """
  names, digest = index.read_names(), hashlib.sha256()
  with tf.io.gfile.GFile(path, 'rb') as file:
    for i, record in enumerate(_frames(file, index, digest)):
      label = int(index.label[i]) if len(index.label) else None
      if not _agrees(record, names[i], label, int(index.crc32[i])):
        raise DamagedError(
            f'{path} is damaged: its record {i} is not '
            f'{printable(names[i])} as it was packed')
      advance(1, len(record))
    if file.read(1):
      raise DamagedError(f'{path} is damaged: it goes on after its end')
  try:
    tf.data.TFRecordDataset(path).reduce(
        np.int64(0), lambda count, _: count + 1)
  except tf.errors.DataLossError as error:
    raise DamagedError(
        f'{path} is damaged: a checksum of its records is wrong') from error
  return digest.hexdigest()


def _frames(
    file: BinaryIO, index: PackIndex, digest: 'hashlib._Hash',
) -> Iterator[bytes]:
  """The data of each record; TensorFlow checks the sums beside it."""
  for i, length in enumerate(map(int, index.length)):
    frame = file.read(length + records.FRAME_BYTES)
    digest.update(frame)
    if (len(frame) < length + records.FRAME_BYTES
        or frame[:8] != struct.pack('<Q', length)):
      raise DamagedError(
          f'{file.name} is damaged: its record {i} is cut short or has another '
          'length')
    yield frame[records.HEADER_BYTES:records.HEADER_BYTES + length]


def _agrees(
    record: bytes, name: str, label: int | None, crc32: int) -> bool:
  try:
    example = tf.train.Example.FromString(record)
  except Exception:  # pylint: disable=broad-except
    return False  # protobuf's own error is not public
  features = example.features.feature
  return (
      [zlib.crc32(image) for image in features[_IMAGE].bytes_list.value]
      == [crc32]
      and list(features[_NAME].bytes_list.value) == [os.fsencode(name)]
      and list(features[_LABEL].int64_list.value)
      == ([] if label is None else [label]))

"""Label maps and depth maps: what their files hold, and how they are read.

A label map is a PNG with a palette or grey levels of 8 bits, whose values, not
colours, are the classes; 255 marks pixels that count nowhere. A depth map is
a .npy file of metres [H, W], or a PNG of 16 bits with millimetres; 0 marks
pixels that were not measured.

Files are decoded once, in full, to see what they hold; that is remembered.
Those which TensorFlow's decoders would not read as they stand (a palette
becomes colours) are kept in the cache folder in a form that they do.
"""

from collections.abc import Callable
from collections.abc import Sequence
import concurrent.futures
import io
import json
import os
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image
import tensorflow as tf

from byol_jax.config import ConfigError
from byol_jax.data import cache
from byol_jax.data import folder_index
from byol_jax.data import image_header
from byol_jax.data import photo

IGNORED = 255  # the class of pixels that count nowhere
UNKNOWN = -1  # in a table of classes: a number that means none
_THREADS = 16
_VERSION = 1
_NPY_HEADER_BYTES = 128  # of any small array, as NumPy pads it
_MILLIMETRES = 1000.0


class MapFile(NamedTuple):
  """One file: where, as it was when it was examined, and what it holds."""
  name: str  # path from the folder, with '/'
  num_bytes: int
  modified_ns: int
  height: int = 0
  width: int = 0
  plain: bool = False  # TensorFlow reads the values as they are
  values: tuple[int, ...] = ()  # of a label map, in order
  problem: str = ''  # why it is no map, in a few words

  @property
  def state(self) -> tuple[str, int, int]:
    return self.name, self.num_bytes, self.modified_ns


def examine_labels(
    root: pathlib.Path, names: Sequence[str], max_pixels: int,
) -> list[MapFile]:
  """Decodes the label maps that are not known yet.

  Raises:
    ConfigError: a file is missing, no label map, or of more than `max_pixels`.
  """
  return _examine_all(root, names, 'labels', _examine_label, max_pixels)


def examine_depths(
    root: pathlib.Path, names: Sequence[str], max_pixels: int,
) -> list[MapFile]:
  """Decodes the depth maps that are not known yet.

  Raises:
    ConfigError: a file is missing, no depth map, or of more than `max_pixels`.
  """
  return _examine_all(root, names, 'depths', _examine_depth, max_pixels)


def make_load_label_fn(
    root: pathlib.Path, files: Sequence[MapFile], numbers: np.ndarray,
    max_pixels: int,
) -> Callable[[tf.Tensor], tf.Tensor]:
  """Reads label maps in the graph.

  Args:
    root: the folder.
    files: as examined.
    numbers: int[256], the class of each value in the files.
    max_pixels: of a map; a larger one is not decoded, the operation fails.

  Returns:
    A function of an index, int64 scalar, to uint8 [h, w].
  """
  paths = tf.constant([os.fsencode(path) for path in _readable_paths(
      root, files, '.png', _label_as_png, max_pixels)])
  numbers = tf.constant(np.where(numbers == UNKNOWN, IGNORED, numbers),
                        tf.uint8)

  def load(index: tf.Tensor) -> tf.Tensor:
    contents, _ = image_header.check(tf.io.read_file(paths[index]), max_pixels)
    values = tf.io.decode_png(contents, channels=1)
    return tf.gather(numbers, tf.cast(values[:, :, 0], tf.int32))

  return load


def make_load_depth_fn(
    root: pathlib.Path, files: Sequence[MapFile], max_pixels: int,
) -> Callable[[tf.Tensor], tf.Tensor]:
  """Reads depth maps in the graph: an index, int64 scalar, to f32 [h, w]."""
  listed = _readable_paths(
      root, files, '.npy', _depth_as_npy, max_pixels)
  paths = tf.constant([os.fsencode(path) for path in listed])
  is_array = tf.constant([path.endswith('.npy') for path in listed])
  sizes = tf.constant([(file.height, file.width) for file in files])

  def load(index: tf.Tensor) -> tf.Tensor:
    contents = tf.io.read_file(paths[index])

    def from_array() -> tf.Tensor:
      values = tf.strings.substr(contents, _NPY_HEADER_BYTES, -1)
      return tf.reshape(tf.io.decode_raw(values, tf.float32), sizes[index])

    def from_png() -> tf.Tensor:
      values = tf.io.decode_png(
          image_header.check(contents, max_pixels)[0], channels=1,
          dtype=tf.uint16)
      return tf.cast(values[:, :, 0], tf.float32) / _MILLIMETRES

    return tf.cond(is_array[index], from_array, from_png)

  return load


def _examine_all(
    root: pathlib.Path, names: Sequence[str], kind: str,
    examine: Callable[[str, MapFile, int], MapFile], max_pixels: int,
) -> list[MapFile]:
  files = []
  for name in names:
    if not (root / name).is_file():
      raise ConfigError(f'there is no file {root / name}')
    if folder_index.leads_out(root, str(root / name)):
      raise ConfigError(
          f'{root / name} leads out of {root}, by a link or `..`; copy what '
          'it leads to')
    status = os.stat(root / name)
    files.append(MapFile(name, status.st_size, status.st_mtime_ns))
  remembered = cache.cached_file(
      kind, (_VERSION, os.path.realpath(root), max_pixels), '.json')
  known = _load(remembered)
  new = [file for file in files if file.state not in known]
  if new:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      examined = pool.map(
          lambda file: _guarded(
              examine, str(root / file.name), file, max_pixels), new)
      known |= {file.state: file for file in examined}
    cache.remember(remembered, json.dumps(list(known.values())).encode())
  examined = [known[file.state] for file in files]
  bad = [file for file in examined if file.problem]
  if bad:
    raise ConfigError(
        f'{root / bad[0].name} {bad[0].problem} ({len(bad)} such files)')
  return examined


def _guarded(
    examine: Callable[[str, MapFile, int], MapFile], path: str, file: MapFile,
    max_pixels: int) -> MapFile:
  try:
    return examine(path, file, max_pixels)
  except photo.TooLargeError:
    return file._replace(problem='is implausibly large')
  except Exception:  # pylint: disable=broad-except
    # Decoders raise whatever they like on damaged files.
    return file._replace(problem='cannot be decoded')


def _examine_label(path: str, file: MapFile, max_pixels: int) -> MapFile:
  with photo.open_image(path, max_pixels) as image:
    if image.format != 'PNG' or image.mode not in ('P', 'L', '1'):
      return file._replace(problem=(
          f'is a {image.format} of mode {image.mode}, expected a PNG with a '
          'palette or grey levels of 8 bits, whose values are the classes'))
    mode, values = image.mode, np.asarray(image)
  return file._replace(
      height=values.shape[0], width=values.shape[1],
      plain=mode == 'L' and photo.examine(path, max_pixels).plain,
      values=tuple(np.unique(values.astype(np.uint8)).tolist()))


def _examine_depth(path: str, file: MapFile, max_pixels: int) -> MapFile:
  depth, plain = _read_depth(path, max_pixels)
  if depth is None:
    return file._replace(problem=(
        'is no depth map, expected numbers [H, W] in a .npy file, in metres, '
        'or a PNG of 16 bits, in millimetres'))
  if not np.all(np.isfinite(depth)) or depth.min() < 0:
    return file._replace(problem=(
        'holds depths that are negative or not finite, expected metres, and '
        '0 where there is no measurement'))
  return file._replace(
      height=depth.shape[0], width=depth.shape[1], plain=plain)


def _read_depth(
    path: str, max_pixels: int) -> tuple[np.ndarray | None, bool]:
  """Metres f32[H, W], and whether TensorFlow reads the file as it stands."""
  if path.endswith('.npy'):
    depth = np.load(path, mmap_mode='r', allow_pickle=False)
    if depth.size > max_pixels:
      raise photo.TooLargeError(path)
    if depth.ndim != 2 or not depth.size or depth.dtype.kind not in 'fiu':
      return None, False
    plain = (depth.dtype == np.dtype('<f4') and depth.flags.c_contiguous
             and os.path.getsize(path) == depth.nbytes + _NPY_HEADER_BYTES)
    return depth.astype(np.float32), plain
  with photo.open_image(path, max_pixels) as image:
    if image.format != 'PNG' or not image.mode.startswith('I'):
      return None, False
    depth = np.asarray(image).astype(np.float32) / _MILLIMETRES
  return depth, photo.is_whole_png(path)


def _readable_paths(
    root: pathlib.Path, files: Sequence[MapFile], suffix: str,
    convert: Callable[[str, int], bytes], max_pixels: int) -> list[str]:
  """The files, or copies in the cache of those that are not plain."""
  paths = [str(root / file.name) for file in files]
  copies = {
      path: cache.cached_file(
          'map', (_VERSION, os.path.realpath(path), file.state), suffix)
      for path, file in zip(paths, files, strict=True) if not file.plain}
  cache.write_missing(copies, lambda path: convert(path, max_pixels))
  return [str(copies.get(path, path)) for path in paths]


def _label_as_png(path: str, max_pixels: int) -> bytes:
  """The values of a label map as grey levels."""
  with photo.open_image(path, max_pixels) as image:
    values = np.asarray(image).astype(np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(values).save(buffer, 'PNG')
  return buffer.getvalue()


def _depth_as_npy(path: str, max_pixels: int) -> bytes:
  depth, _ = _read_depth(path, max_pixels)
  buffer = io.BytesIO()
  np.save(buffer, np.ascontiguousarray(depth, '<f4'))
  return buffer.getvalue()


def _load(path: pathlib.Path) -> dict[tuple[str, int, int], MapFile]:
  try:
    rows = json.loads(path.read_text())
    files = [MapFile(*row)._replace(values=tuple(row[6])) for row in rows]
  except (OSError, ValueError, TypeError, IndexError):
    return {}
  return {file.state: file for file in files}

"""What every kind of source becomes: examples that are read by index.

Decoded images of one size that fit into memory are an `InMemorySource`, whose
batches are gathered, cropped and resized together. Everything else is an
`EncodedSource`: files or records are read by index, and of a JPEG only the
crop is decoded.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import functools
import hashlib

import numpy as np
import tensorflow as tf

from byol_jax.data.parallel import parallel_map
from byol_jax.data.parallel import prefetch_in_order

MAX_IMAGE_PIXELS = 2**26  # where nothing else is said


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Source:
  name: str  # for messages, as 'tfds:cifar10 (train)'
  num_examples: int
  num_classes: int | None = None  # None: the examples have no labels
  class_names: tuple[str, ...] | None = None
  # Labels are then int32 [C] for each example: 1 for a class that is there, 0
  # for one that is not, -1 for one that does not count (VOC's difficult ones).
  is_multi_label: bool = False
  # The examples' file names, in order, where they have any: read when asked.
  read_names: Callable[[], Sequence[str]] | None = None
  # Where an example is, for messages: a file, or a record of one.
  place_of: Callable[[int], str] | None = None
  # Another when the files do not hold the same any more; '' where they always
  # do, as those of a version of TFDS.
  fingerprint: str = ''
  # Likewise, and alike on all hosts that hold the same files, whenever they
  # were copied there.
  contents: str = ''

  @property
  def has_labels(self) -> bool:
    return self.num_classes is not None

  @property
  def num_single_classes(self) -> int | None:
    """Classes, where each example has one label, as probe and kNN need."""
    return None if self.is_multi_label else self.num_classes

  def locate(self, index: int) -> str:
    """Says which example number `index` is."""
    if self.place_of is None:
      return f'example {index} of {self.name}'
    return self.place_of(index)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InMemorySource(_Source):
  """Decoded images: uint8 [N, H, W, 3], labels int32 [N], [N, C] or None."""
  images: np.ndarray
  labels: np.ndarray | None = None

  @functools.cached_property
  def tensors(self) -> dict[str, tf.Tensor]:
    """`image` uint8 [N, H, W, 3], and `label` int32 if there are any.

    Copied to TensorFlow once, however many datasets read from the source.
    """
    tensors = {'image': tf.constant(self.images)}
    if self.labels is not None:
      tensors['label'] = tf.constant(self.labels, tf.int32)
    return tensors


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EncodedSource(_Source):
  """Encoded images.

  Attributes:
    load: in the graph, an index (int64 scalar) to `{'image': string scalar}`,
      the contents of a JPEG, PNG, BMP or GIF file, and, if there are labels,
      `'label'`, int32. It must not call Python: a thread of tf.data that waits
      for the interpreter while that shuts down would hang the process.
    max_image_pixels: of an image; a larger one is not decoded, but treated as
      one that cannot be read.
  """
  load: Callable[[tf.Tensor], dict[str, tf.Tensor]]
  max_image_pixels: int = MAX_IMAGE_PIXELS


Source = InMemorySource | EncodedSource


def fit_in_memory(sizes: np.ndarray, max_bytes: int) -> bool:
  """Whether images are of one size, and decoded of no more than `max_bytes`.

  Args:
    sizes: int [N, 2], height and width of each.
    max_bytes: of all of them.
  """
  height, width = map(int, sizes[0])
  return (bool((sizes == sizes[0]).all())
          and len(sizes) * height * width * 3 <= max_bytes)


def fingerprints(states: Iterable[tuple[str, int, int]]) -> dict[str, str]:
  """A source's two, by its files: name, size and when it was modified."""
  states = list(states)
  return {'fingerprint': _digest(states),
          'contents': _digest([state[:2] for state in states])}


def _digest(states: list[tuple[str | int, ...]]) -> str:
  return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


def read_labels(source: Source) -> np.ndarray:
  """Every example's label, int32 [N] or [N, C]; the source must have them.

  Of encoded examples all records are read, but no image is decoded; of one that
  cannot be read the label is -1.
  """
  if isinstance(source, InMemorySource):
    return source.labels
  labels = prefetch_in_order(parallel_map(
      tf.data.Dataset.range(source.num_examples),
      lambda index: source.load(index)['label']))
  try:
    return np.stack(list(labels.as_numpy_iterator()))
  except tf.errors.OpError:
    return _read_labels_one_by_one(source)


def _read_labels_one_by_one(source: EncodedSource) -> np.ndarray:
  labels = [_read_label(source, index) for index in range(source.num_examples)]
  missing = np.full_like(next(x for x in labels if x is not None), -1)
  return np.stack([missing if x is None else x for x in labels])


def _read_label(source: EncodedSource, index: int) -> np.ndarray | None:
  try:
    return source.load(tf.constant(index, tf.int64))['label'].numpy()
  except tf.errors.OpError:
    return None

"""Several splits as one, such as train and validation for a last fit."""

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from byol_jax.data.examples import EncodedSource
from byol_jax.data.examples import InMemorySource
from byol_jax.data.examples import MAX_IMAGE_PIXELS
from byol_jax.data.examples import Source


def join(sources: Sequence[Source]) -> Source:
  """The examples of each source in turn.

  Args:
    sources: at least one, of the same classes.

  Returns:
    A source; in memory if all of them are, and of one size.
  """
  first = sources[0]
  if len(sources) == 1:
    return first
  common = dict(
      name=' + '.join(source.name for source in sources),
      num_examples=sum(source.num_examples for source in sources),
      num_classes=first.num_classes, class_names=first.class_names,
      is_multi_label=first.is_multi_label)
  in_memory = all(isinstance(source, InMemorySource) for source in sources)
  if in_memory and len({source.images.shape[1:] for source in sources}) == 1:
    return InMemorySource(
        images=np.concatenate([source.images for source in sources]),
        labels=None if first.labels is None else np.concatenate(
            [source.labels for source in sources]), **common)
  return EncodedSource(
      load=_make_load_fn(sources), place_of=_make_place_fn(sources),
      max_image_pixels=max(
          (source.max_image_pixels for source in sources
           if isinstance(source, EncodedSource)), default=MAX_IMAGE_PIXELS),
      **common)


def _make_load_fn(sources: Sequence[Source]):
  ends = np.cumsum([source.num_examples for source in sources])
  loads = [_load_fn(source) for source in sources]

  def load(index: tf.Tensor) -> dict[str, tf.Tensor]:
    which = tf.searchsorted(tf.constant(ends, tf.int64), index[None],
                            side='right')[0]
    starts = [0, *ends[:-1]]
    return tf.switch_case(which, [
        lambda load=load, start=start: load(index - int(start))
        for load, start in zip(loads, starts, strict=True)])

  return load


def _make_place_fn(sources: Sequence[Source]) -> Callable[[int], str]:
  ends = np.cumsum([source.num_examples for source in sources])

  def place_of(index: int) -> str:
    which = int(np.searchsorted(ends, index, side='right'))
    start = int(ends[which]) - sources[which].num_examples
    return sources[which].locate(index - start)

  return place_of


def _load_fn(source: Source):
  if isinstance(source, EncodedSource):
    return source.load
  tensors = source.tensors

  def load(index: tf.Tensor) -> dict[str, tf.Tensor]:
    loaded = {key: tensor[index] for key, tensor in tensors.items()}
    # Lossless, and what an encoded source gives.
    return loaded | {'image': tf.io.encode_png(loaded['image'])}

  return load

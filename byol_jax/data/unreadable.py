"""Examples that cannot be read in the middle of a run: skipped and counted.

Files rot, or are deleted, after they were examined; records are damaged. From
then on, in the graph, `first_readable` puts the next readable example in an
unreadable one's place, so that every batch is full and every process makes as
many batches as the others. Which example that is depends on nothing but the
order of the examples: not on the process, nor on where the run was resumed.

On the host, `Watch` counts and names those that were left out, and ends a run
that meets too many of them.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from byol_jax import stopping
from byol_jax.config import ConfigError
from byol_jax.data import decoding
from byol_jax.data.examples import Source

# Examples that are tried one after the other in the place of one.
MAX_TRIES = 9
# Of a broken file system; each line says one thing.
_MAX_LINES = 100
_MAX_ERROR_LENGTH = 200
_OUT_OF_REACH = (
    tf.errors.UnavailableError, tf.errors.DeadlineExceededError,
    tf.errors.AbortedError)

_Example = dict[str, Any]
_Batch = dict[str, Any]


def first_readable(
    candidates: tf.Tensor, attempt: Callable[[tf.Tensor], _Example], *,
    or_blank: bool) -> _Example:
  """What `attempt` makes of the first candidate that it makes anything of.

  Args:
    candidates: int64 [n], indices of examples.
    attempt: in the graph, an index to an example's tensors, `index` among
      them; an operation that fails means that it cannot be read.
    or_blank: whether an `index` of -1 with zeros for the rest stands for none
      of them; if not, that is an error.

  Returns:
    The tensors.
  """
  found = tf.data.Dataset.from_tensor_slices(candidates).map(
      tf.autograph.experimental.do_not_convert(attempt)).ignore_errors()
  if or_blank:
    blank = tf.nest.map_structure(
        lambda spec: tf.zeros(spec.shape, spec.dtype), found.element_spec)
    blank['index'] -= 1
    found = found.concatenate(tf.data.Dataset.from_tensors(blank))
  # A dataset of one element has nothing to tune, and would start threads to.
  options = tf.data.Options()
  options.autotune.enabled = False
  options.experimental_optimization.apply_default_optimizations = False
  options.threading.max_intra_op_parallelism = 1  # as the pipeline's
  return found.take(1).with_options(options).get_single_element()


class Watch:
  """Counts and names, as batches pass, the examples that were left out.

  Each process names what it meets itself, from where it started or resumed;
  what else there is, it has to be told.
  """

  def __init__(self, source: Source, max_share: float):
    """Of `source`, at most the share `max_share` may be unreadable."""
    self._source = source
    self._max_share = max_share
    self._reasons = {}
    self._told = frozenset()
    self._is_careful = False

  @property
  def count(self) -> int:
    """Different examples that this process could not read so far."""
    return len(self._reasons)

  @property
  def reasons(self) -> dict[int, str]:
    """Why, in a few words, by index."""
    return dict(self._reasons)

  def tell(self, indices: Iterable[int]) -> None:
    """Says what other processes, and the run before, could not read.

    Raises:
      ConfigError: together they are too many by now.
    """
    self._told = frozenset(indices)
    self._check()

  def batches(
      self, create: Callable[..., tf.data.Dataset], start_step: int = 0
  ) -> Iterator[_Batch]:
    """Every batch of a pipeline, without what is for the host only.

    Args:
      create: called as `create(start_step=..., careful=...)`, one of
        `pipeline`'s makers of datasets of this source. What is not careful
        comes first, and costs nothing; the first example that cannot be read
        makes the rest careful.
      start_step: of the first batch.

    Raises:
      ConfigError: too many examples are unreadable, or so many in a row that
        the disk may be gone.
    """
    for batch in self.read(create, start_step):
      yield {key: x for key, x in batch.items() if key != 'wanted'}

  def read(
      self, create: Callable[..., tf.data.Dataset], start_step: int = 0
  ) -> Iterator[_Batch]:
    """As `batches`, with `wanted`, where images are encoded."""
    step = start_step
    while not self._is_careful:
      try:
        for batch in create(
            start_step=step, careful=False).as_numpy_iterator():
          step += 1
          yield batch
        return
      except _OUT_OF_REACH as error:
        raise _unfinished(self._source, error) from error
      except tf.errors.OpError:
        self._is_careful = True  # and this step again
    dataset = create(start_step=step, careful=True)
    for batch in guard(self._source, dataset.as_numpy_iterator()):
      self.look(batch)
      yield batch

  def look(self, batch: _Batch) -> None:
    """Counts a batch's unreadable examples, and names the new ones.

    Raises:
      ConfigError: they are too many by now.
    """
    if 'wanted' not in batch:
      return
    wanted = batch['wanted']
    for index in np.unique(wanted[wanted != batch['index']]).tolist():
      if index not in self._reasons:
        self._add(index)

  def _add(self, index: int) -> None:
    reason = decoding.problem(self._source, index)
    self._reasons[index] = reason
    source = self._source
    what = f'{source.locate(index)} {reason}'
    if self.count <= _MAX_LINES:
      logging.warning(
          '%s, and is left out; %d of the %d examples of %s so far.', what,
          self._count_all(), source.num_examples, source.name)
    self._check(f', the last of them {what}')

  def _count_all(self) -> int:
    return len(self._told.union(self._reasons))

  def _check(self, last: str = '') -> None:
    source, count = self._source, self._count_all()
    if count > self._max_share * source.num_examples:
      raise ConfigError(
          f'{count} of the {source.num_examples} examples of {source.name} '
          f'cannot be read any more{last}; that is more than '
          f'max_bad_image_share={self._max_share:g}: mend the data, or raise '
          'that share')


def _unfinished(
    source: Source, error: tf.errors.OpError) -> stopping.UnfinishedError:
  """No image is at fault where the storage does not answer."""
  message = ' '.join(error.message.split())
  return stopping.UnfinishedError(
      f'{source.name} is out of reach: {message[:_MAX_ERROR_LENGTH]}')


def guard(source: Source, batches: Iterable[_Batch]) -> Iterator[_Batch]:
  """Passes batches on; what ends a pipeline becomes one clear line.

  Raises:
    ConfigError: the pipeline failed: an example cannot be read, and none near
      it could take its place.
  """
  try:
    yield from batches
  except _OUT_OF_REACH as error:
    raise _unfinished(source, error) from error
  except tf.errors.OpError as error:
    message = ' '.join(error.message.split())
    if 'Dataset was empty' in message:
      raise ConfigError(
          f'{source.name}: {MAX_TRIES} examples in a row cannot be read; is '
          'the disk still there, and the dataset on it?') from error
    raise ConfigError(
        f'{source.name}: an example cannot be read: '
        f'{message[:_MAX_ERROR_LENGTH]}') from error

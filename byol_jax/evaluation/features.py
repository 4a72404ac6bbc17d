"""Features: what a frozen network makes of every example of a split."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import time
from typing import Any

from absl import logging
import jax
import ml_collections
import numpy as np

from byol_jax import peers
from byol_jax.data import examples
from byol_jax.data import pipeline
from byol_jax.data import unreadable
from byol_jax.evaluation import progress as progress_lib
from byol_jax.networks import network as network_lib
from byol_jax.training import agreement
from byol_jax.training import devices
from byol_jax.training import state as state_lib

# Maps the first batch to batches from there on.
Batches = Callable[..., Iterator[dict[str, np.ndarray]]]

_SAVE_SECONDS = 60.0
# Rows that processes exchange at once, through the devices' memory.
_GATHER_ROWS = 16384


@dataclasses.dataclass(frozen=True)
class SplitBatches:
  """`Batches` of a split that say how many they are; anew at each call.

  Attributes:
    name: of the source.
    count: of all batches.
    create: maps the first batch to batches from there on.
  """

  name: str
  count: int
  create: Callable[[int], Iterator[dict[str, np.ndarray]]]

  def __call__(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    return self.create(start_step)


@dataclasses.dataclass(frozen=True)
class Features:
  """One row for each example, in the order of `index`.

  Of pairs of views (see `pairs`), each output has an axis of 2 after N.

  Attributes:
    embedding: f32[N, D], of the online encoder.
    index: i32[N], the examples' ids in their source, rising.
    label: i32[N], or i32[N, C] where several hold at once, or None.
    projection: f32[N, P], or None where it was not asked for.
    prediction: f32[N, P], likewise.
    target_projection: f32[N, P] of the target network, likewise.
    logits: f32[N, num_classes] of the online probe, or None.
  """

  embedding: np.ndarray
  index: np.ndarray
  label: np.ndarray | None = None
  projection: np.ndarray | None = None
  prediction: np.ndarray | None = None
  target_projection: np.ndarray | None = None
  logits: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Splits:
  """One encoder's features of each split; see `subject.Sources`."""

  train: Features
  test: Features
  valid: Features | None = None


def online_variables(state: state_lib.TrainState) -> dict[str, Any]:
  """What is evaluated and exported: the online network, as it stands."""
  return {
      'params': state.online_params, 'batch_stats': state.online_batch_stats}


def target_variables(state: state_lib.TrainState) -> dict[str, Any] | None:
  """The target, with its own running statistics; None where there is none."""
  if not state.target_params:
    return None
  return {
      'params': state.target_params, 'batch_stats': state.target_batch_stats}


def make_predict(
    network: network_lib.Network, outputs: Sequence[str] = ('embedding',)
) -> devices.Predict:
  """Maps the network, with its running statistics, over this host's devices.

  Args:
    network: an unbound module.
    outputs: names of fields of `networks.network.Outputs`.

  Returns:
    `predict(variables, images f32[B, H, W, C] in [0, 1])`, a dictionary of
    those outputs [B, ...] on the host. What the network does not have (a
    probe) is left out.
  """
  def predict(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    if tuple(outputs) == ('embedding',):
      return {'embedding': network.apply(
          variables, images, train=False, method='encode')}
    made = network.apply(variables, images, train=False)
    found = {name: getattr(made, name) for name in outputs}
    return {name: x for name, x in found.items() if x is not None}

  return devices.Predict(predict)


def make_batches(
    source: examples.Source, config: ml_collections.ConfigDict,
    limit: int | None = None, image_size: int | None = None,
    index: np.ndarray | None = None,
) -> SplitBatches:
  """This process's share of a split, centre-cropped, in constant batches.

  Returns:
    A function of the first batch, 0 if not told; the pipeline from 0 on is
    built once.
  """
  create = functools.partial(
      pipeline.create_eval_dataset, source, config,
      batch_size=config.evaluate_batch_size, image_size=image_size,
      limit=limit, index=index, process_index=jax.process_index(),
      process_count=jax.process_count())
  create = functools.cache(create)
  watch = unreadable.Watch(source, config.max_bad_image_share)

  num_examples = source.num_examples
  if index is not None:
    num_examples = len(index)
  elif limit is not None:
    num_examples = min(num_examples, limit)
  return SplitBatches(
      source.name, -(-num_examples // config.evaluate_batch_size),
      lambda start_step: watch.batches(create, start_step))


def extract_features(
    predict: devices.Predict, variables: Any,
    batches: Iterable[dict[str, np.ndarray]],
) -> Features:
  """Streams a split through the network, once.

  Args:
    predict: see `make_predict`. It compiles once if all batches are of one
      size, which is what the mask is for.
    variables: `params` and `batch_stats`.
    batches: of this process's share: `image` f32[B, H, W, C], `index` i32[B],
      `mask` bool[B] (False: padding, dropped), and `label` i32[B] or
      i32[B, C] or not.

  Returns:
    The features of all processes' shares, the same on every process.

  Raises:
    ValueError: if there was not one example.
  """
  return _join(list(_predict_rows(predict, variables, batches)))


def resume_features(
    predict: devices.Predict, variables: Any, batches: SplitBatches,
    progress: progress_lib.Progress,
) -> Features:
  """`extract_features` that keeps what it has, and goes on from there.

  Args:
    predict: likewise.
    variables: likewise.
    batches: of this process's share.
    progress: where rows are kept every minute.
  """
  parts, start = _read_parts(progress)
  peers.advance(f'features of {batches.name}', start)
  rows, saved = [], time.monotonic()
  for step, row in enumerate(
      _predict_rows(predict, variables, batches(start)), start=start + 1):
    rows.append(row)
    if time.monotonic() - saved > _SAVE_SECONDS:
      progress.put(f'part{len(parts)}', _concatenate(rows) | {
          'next_step': step})
      parts.append(_concatenate(rows))
      logging.info(
          'features of %s: %d of %d batches', batches.name, step,
          batches.count)
      rows, saved = [], time.monotonic()
  return _join(parts + rows)


def _predict_rows(
    predict: devices.Predict, variables: Any,
    batches: Iterable[dict[str, np.ndarray]],
) -> Iterator[dict[str, np.ndarray]]:
  """Columns of each batch, without its padding."""
  variables = devices.replicate(variables)

  def finish(
      fetch: Callable[[], dict[str, np.ndarray]], batch: dict[str, np.ndarray]
  ) -> dict[str, np.ndarray]:
    mask = np.asarray(batch['mask'])
    row = fetch() | {k: batch[k] for k in ('index', 'label') if k in batch}
    return {k: np.asarray(x)[mask] for k, x in row.items()}

  # The devices have the next batch before the last one's rows are looked at.
  waiting = None
  for number, batch in enumerate(batches, start=1):
    peers.advance(f'features, batch {number}')
    following = predict.dispatch(variables, batch['image']), batch
    if waiting:
      yield finish(*waiting)
    waiting = following
  if waiting:
    yield finish(*waiting)


def _join(rows: Sequence[dict[str, np.ndarray]]) -> Features:
  """All processes' rows, in the order of their examples."""
  if not rows:
    raise ValueError('no examples to extract features from')
  columns = _gather_processes(_concatenate(rows))
  order = np.argsort(columns['index'], kind='stable')
  return Features(**{k: x[order] for k, x in columns.items()})


def _concatenate(rows: Sequence[dict[str, np.ndarray]]) -> dict[
    str, np.ndarray]:
  return {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}


def _read_parts(
    progress: progress_lib.Progress
) -> tuple[list[dict[str, np.ndarray]], int]:
  """What is extracted already, and the first batch that is not."""
  parts, start = [], 0
  while (part := progress.get(f'part{len(parts)}')) is not None:
    start = int(part.pop('next_step'))
    parts.append(part)
  return parts, start


def _gather_processes(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Joins every process's rows, of which some may have more than others."""
  if jax.process_count() == 1:
    return columns
  counts = agreement.gather(np.array(len(columns['index'])))
  ends = np.cumsum(counts)

  def gather(x: np.ndarray) -> np.ndarray:
    joined = np.empty((ends[-1], *x.shape[1:]), x.dtype)
    for first in range(0, int(counts.max()), _GATHER_ROWS):
      size = min(_GATHER_ROWS, int(counts.max()) - first)
      block = np.zeros((size, *x.shape[1:]), x.dtype)
      mine = x[first:first + size]
      block[:len(mine)] = mine
      for rows, count, end in zip(
          agreement.gather(block), counts, ends, strict=True):
        target = joined[end - count:end][first:first + size]
        target[:] = rows[:len(target)]
    return joined

  return jax.tree.map(gather, columns)

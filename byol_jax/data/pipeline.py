"""tf.data pipelines: which batches there are, and how they are made.

Step `s` of a run holds the positions [s * batch_size, (s + 1) * batch_size),
and process i of n makes its i-th slice of n. What a position becomes is
settled by `randomness`, so the batches of a run are the same wherever it was
resumed and however many processes make them. Nothing is dropped at the end of
an epoch: a batch may straddle two, and a run of E epochs of N examples has
`E * N // batch_size` steps.

An encoded example that cannot be read is an error, or, in a `careful` pipeline,
which costs a little more, is replaced by the next that can (in evaluation it is
masked); `wanted` then says which it was. It is for the host only.
`unreadable.Watch` makes a pipeline careful when it has to be, counts with
`wanted`, and takes it out of the batches.

Images in memory are rendered in chunks of 8 to 64 rows, which fit the
processor's cache and keep all its cores busy; encoded ones one by one, but
where their crops are is settled for several at once. Both are joined into
batches at the end.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from byol_jax import config as config_lib
from byol_jax import platforms
from byol_jax.augmentation import draws as columns
from byol_jax.data import crop
from byol_jax.data import decoding
from byol_jax.data import randomness
from byol_jax.data import render
from byol_jax.data import unreadable
from byol_jax.data.examples import EncodedSource
from byol_jax.data.examples import InMemorySource
from byol_jax.data.examples import Source
from byol_jax.data.parallel import BATCHES
from byol_jax.data.parallel import parallel_map
from byol_jax.data.parallel import prefetch_in_order
from byol_jax.data.parallel import without_autotuner

_MAX_CHUNK_ROWS = 64
_MIN_CHUNK_ROWS = 8
# Encoded images whose crops are placed at once. More would take little less
# time, and each, as its file has it, waits in memory for the others: some 64 of
# them, and one a core.
_PLACED_TOGETHER = 16
# Streams of draws: view v of pretraining uses stream v.
_LABELLED_STREAM = 128
# Rows of an evaluation that is limited are a fixed sample, not the first
# ones: folders and many datasets are sorted by class.
_SAMPLE_SEED = 0

_Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Views:
  """The K images that are made of every example.

  Attributes:
    make_boxes: from draws [K, n, D] and the sizes of images, int32 [n, 2], to
      what is shown of them, int32 [K, n, 4].
    make_mirrored: from draws to whether they are flipped, bool [K, n].
    finishes: see `render`.
    streams: of the draws; None: there are none.
  """
  make_boxes: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
  make_mirrored: Callable[[tf.Tensor], tf.Tensor]
  finishes: Sequence[render.Finish]
  streams: Sequence[int | None]


def _random_views(
    settings: Sequence[ml_collections.ConfigDict],
    finishes: Sequence[render.Finish], streams: Sequence[int]) -> _Views:
  return _Views(
      functools.partial(crop.view_boxes, settings=settings),
      functools.partial(crop.view_mirrored, settings=settings), finishes,
      streams)


@dataclasses.dataclass(frozen=True)
class _Rows:
  """How one process's part of every batch is cut into chunks."""
  batch_size: int  # global
  process_index: int
  process_count: int

  def __post_init__(self):
    if self.batch_size % self.process_count:
      raise config_lib.ConfigError(
          f'a batch of {self.batch_size} cannot be divided by '
          f'{self.process_count} processes; choose a multiple')

  @property
  def per_process(self) -> int:
    return self.batch_size // self.process_count

  @property
  def per_chunk(self) -> int:
    """Rows: the largest good chunk of which there is one for every core.

    Where there are more cores, the smallest; where no good one divides the
    batch, the batch.
    """
    rows = self.per_process
    good = [n for n in range(_MAX_CHUNK_ROWS, _MIN_CHUNK_ROWS - 1, -1)
            if rows % n == 0]
    return next((n for n in good if BATCHES * (rows // n) >= platforms.cores()),
                min(good, default=rows))

  @property
  def chunks_per_step(self) -> int:
    return self.per_process // self.per_chunk

  @property
  def chunks_at_once(self) -> int:
    """That are rendered, or wait: of `BATCHES` batches, and one a core."""
    return min(BATCHES * self.chunks_per_step, platforms.cores())

  def first_position(self, chunk: tf.Tensor) -> tf.Tensor:
    """Of chunk number `chunk` (int64), counted over all steps from 0."""
    step, part = chunk // self.chunks_per_step, chunk % self.chunks_per_step
    return (step * self.batch_size + self.process_index * self.per_process
            + part * self.per_chunk)


def create_train_dataset(
    source: Source, config: ml_collections.ConfigDict, *, start_step: int = 0,
    total_steps: int, process_index: int = 0, process_count: int = 1,
    careful: bool = False, on_device: bool = False) -> tf.data.Dataset:
  """Two augmented views of every example, for pretraining.

  Args:
    source: examples.
    config: `batch_size` (global), `image_size`, `seed` and `augment` are read.
    start_step: of the run; costs nothing, nothing is skipped through.
    total_steps: of the run, at least start_step.
    process_index: of this process.
    process_count: divides the batch size.
    careful: see above.
    on_device: whether the step does what is left to do when the views are
      cropped and flipped.

  Returns:
    A dataset of total_steps - start_step batches of this process, b rows each:
    `views`, a pair of float32 [b, S, S, 3] in [0, 1], not normalised, or
    instead `crops` and `draws`, see `photometric.make_views_fn`; `index`,
    int32 [b]; `label`, int32 [b] or [b, C], if there are labels; of encoded
    images, `wanted`, int32 [b], see above. Element n is step start_step + n.

  Raises:
    ConfigError: the batch cannot be divided by the processes.
  """
  rows = _Rows(config.batch_size, process_index, process_count)
  settings = (config.augment.view1, config.augment.view2)
  views = _random_views(
      settings,
      [render.PIXELS if on_device else render.make_view(view)
       for view in settings], range(len(settings)))

  def finish(chunk: _Batch) -> _Batch:
    images = chunk.pop('images')
    if on_device:
      return chunk | {'crops': images}
    del chunk['draws']
    return chunk | {'views': images}

  chunks = _shuffled_chunks(source, rows, start_step, total_steps, config.seed)
  rendered = _render(
      chunks, source, rows, views, seed=config.seed, size=config.image_size,
      careful=careful)
  return _join(rendered, source, rows, finish, total_steps - start_step)


def read_first_views(
    source: Source, config: ml_collections.ConfigDict, *,
    process_index: int = 0, process_count: int = 1) -> np.ndarray:
  """All views of a run's first micro-batch, as `affine_init` starts from.

  Args:
    source: examples.
    config: as `create_train_dataset`, and `accumulation_steps`.
    process_index: of this process.
    process_count: divides the batch size.

  Returns:
    float32 [2 b, S, S, 3] in [0, 1]; b images of this process, in turn with
    their second views.
  """
  watch = unreadable.Watch(source, config.max_bad_image_share)
  batch = next(watch.batches(functools.partial(
      create_train_dataset, source, config, total_steps=1,
      process_index=process_index, process_count=process_count)))
  # As the step splits a batch: every n-th example is the first one's.
  pairs = np.stack(
      [view[::config.accumulation_steps] for view in batch['views']], axis=1)
  return pairs.reshape(-1, *pairs.shape[2:])


def example_ids(
    source: Source, config: ml_collections.ConfigDict, step: int
) -> np.ndarray:
  """The examples of one step's batch in all processes, int64 [batch_size]."""
  order = randomness.example_order(
      num_examples=source.num_examples, batch_size=config.batch_size,
      start_step=step, total_steps=step + 1, seed=config.seed)
  return next(without_autotuner(order).as_numpy_iterator())


def create_labelled_dataset(
    source: Source, config: ml_collections.ConfigDict, *, batch_size: int,
    total_steps: int, seed: int, start_step: int = 0,
    index: np.ndarray | None = None, process_index: int = 0,
    process_count: int = 1, careful: bool = False) -> tf.data.Dataset:
  """One crop of every example, perhaps flipped: to learn labels from.

  Args:
    source: examples.
    config: `test_image_size` or `image_size`, and the crop and flip of
      `augment.view1`, are read.
    batch_size: global.
    total_steps: of the run, at least start_step.
    seed: of order, crops and flips.
    start_step: of the run; nothing is skipped through.
    index: int[M], the examples to learn from; None: all.
    process_index: of this process.
    process_count: divides the batch size.
    careful: see above.

  Returns:
    A dataset of batches of this process: `image`, float32 [b, S, S, 3] in
    [0, 1]; `index`, int32 [b]; `label`, int32 [b] or [b, C], if there are
    labels; of encoded images, `wanted`, int32 [b], see above.

  Raises:
    ConfigError: the batch cannot be divided by the processes.
  """
  rows = _Rows(batch_size, process_index, process_count)
  views = _random_views(
      [config.augment.view1], [render.IMAGE], [_LABELLED_STREAM])

  def finish(chunk: _Batch) -> _Batch:
    del chunk['draws']
    (chunk['image'],) = chunk.pop('images')
    return chunk

  chunks = _shuffled_chunks(source, rows, start_step, total_steps, seed, index)
  rendered = _render(
      chunks, source, rows, views, seed=seed,
      size=config_lib.test_image_size(config), careful=careful)
  return _join(rendered, source, rows, finish, total_steps - start_step)


def create_eval_dataset(
    source: Source, config: ml_collections.ConfigDict, *, batch_size: int,
    image_size: int | None = None, limit: int | None = None,
    index: np.ndarray | None = None, start_step: int = 0,
    process_index: int = 0, process_count: int = 1, careful: bool = False,
) -> tf.data.Dataset:
  """Every example once, in order: centre crop, then bicubic resize.

  Args:
    source: examples.
    config: `test_crop_ratio` and `test_image_size` or `image_size` are read.
    batch_size: global.
    image_size: S, if not the config's.
    limit: at most so many examples, a fixed sample of the source in a fixed
      order.
    index: int[M], of the examples to take instead of all.
    start_step: batches that are left out at the start, unread.
    process_index: of this process.
    process_count: divides the batch size.
    careful: see above.

  Returns:
    A dataset of batches of this process, as many in every process: `image`,
    float32 [b, S, S, 3] in [0, 1]; `index`, int32 [b]; `label`, int32 [b] or
    [b, C], if there are labels; `mask`, bool [b], False for the rows that fill
    up the last batch and for those that cannot be read (their index and label
    are -1); of encoded images, `wanted`, int32 [b], see above.

  Raises:
    ConfigError: the batch cannot be divided by the processes.
  """
  rows = _Rows(batch_size, process_index, process_count)
  count, taken = source.num_examples, index
  if taken is not None:
    count, taken = len(taken), tf.constant(taken, tf.int64)
  elif limit is not None and limit < count:
    taken = randomness.permutation(
        tf.constant(0), num_examples=count, seed=_SAMPLE_SEED)
    count = limit

  def chunk(number: tf.Tensor) -> _Batch:
    positions = rows.first_position(number) + tf.range(
        rows.per_chunk, dtype=tf.int64)
    mask = positions < count
    index = tf.where(mask, positions, 0)
    if taken is not None:
      index = tf.gather(taken, index)
    chunk = {'first': positions[0], 'index': index, 'mask': mask}
    if isinstance(source, EncodedSource):
      chunk |= {'wanted': tf.where(mask, index, -1)}
      chunk |= {'candidates': index[:, tf.newaxis]}
    return chunk

  def finish(chunk: _Batch) -> _Batch:
    chunk['mask'] = mask = chunk['mask'] & (chunk['index'] >= 0)
    for key in {'index', 'label'} & set(chunk):
      wide = mask if chunk[key].shape.rank == 1 else mask[:, tf.newaxis]
      chunk[key] = tf.where(wide, chunk[key], -1)
    del chunk['draws']
    (chunk['image'],) = chunk.pop('images')
    return chunk

  views = _Views(
      lambda _, sizes: crop.center_crop_boxes(
          sizes, config.test_crop_ratio)[tf.newaxis],
      lambda draws: tf.zeros(tf.shape(draws)[:2], tf.bool), [render.IMAGE],
      [None])
  steps = -(-count // batch_size)
  chunks = parallel_map(
      tf.data.Dataset.range(
          start_step * rows.chunks_per_step, steps * rows.chunks_per_step),
      chunk)
  rendered = _render(
      chunks, source, rows, views, seed=0,
      size=image_size or config_lib.test_image_size(config), careful=careful)
  return _join(rendered, source, rows, finish, max(steps - start_step, 0))


def read_image(source: Source, index: int) -> tf.Tensor:
  """One example as it is, uint8 [H, W, 3]."""
  if isinstance(source, InMemorySource):
    return source.tensors['image'][index]
  encoded = source.load(tf.constant(index, tf.int64))['image']
  return decoding.decode(encoded, source.max_image_pixels)


def _shuffled_chunks(
    source: Source, rows: _Rows, start_step: int, total_steps: int,
    seed: int, subset: np.ndarray | None = None) -> tf.data.Dataset:
  """`first`, a chunk's first position, and `index` [rows], int64.

  Of encoded images also `wanted`, which is the same, and `candidates` [rows,
  `unreadable.MAX_TRIES`]: it and the examples that follow it in the source, or
  in the subset.
  """
  count = source.num_examples if subset is None else len(subset)
  order = randomness.example_order(
      num_examples=count, batch_size=rows.batch_size, start_step=start_step,
      total_steps=total_steps, seed=seed)
  if subset is not None:
    subset = tf.constant(subset, tf.int64)

  def example(ranks: tf.Tensor) -> tf.Tensor:
    return ranks if subset is None else tf.gather(subset, ranks)

  def cut(step: tf.Tensor, ranks: tf.Tensor) -> _Batch:
    parts = tf.range(rows.chunks_per_step, dtype=tf.int64)
    first_row = rows.process_index * rows.per_process
    ranks = ranks[first_row:first_row + rows.per_process]
    ranks = tf.reshape(ranks, [rows.chunks_per_step, rows.per_chunk])
    chunks = {
        'first': rows.first_position(step * rows.chunks_per_step + parts),
        'index': example(ranks)}
    if isinstance(source, EncodedSource):
      tries = tf.range(unreadable.MAX_TRIES, dtype=tf.int64)
      chunks |= {'wanted': chunks['index']}
      chunks |= {'candidates': example(
          (ranks[:, :, tf.newaxis] + tries) % count)}
    return chunks

  steps = tf.data.Dataset.range(start_step, total_steps)
  return parallel_map(tf.data.Dataset.zip(steps, order), cut).unbatch()


def _render(
    chunks: tf.data.Dataset, source: Source, rows: _Rows,
    views: _Views, *, seed: int, size: int, careful: bool
) -> tf.data.Dataset:
  """Adds `images`, a tuple of what is rendered of the views, and `label`.

  Of images in memory to chunks, whose rows are rendered together; of encoded
  ones, to examples.

  Args:
    chunks: of `index`, int64 [rows], `first`, the position of the first row,
      and perhaps `mask`; of encoded images, `candidates`, int64 [rows, n], to
      be tried for each row in turn by a careful pipeline. Where there is a
      mask, a row none of whose candidates can be read gets the index -1.
    source: to read from.
    rows: of a chunk.
    views: to be made of each image.
    seed: of the draws.
    size: of an image after resizing.
    careful: see the module's docstring.
  """
  def draws_of(stream: int | None, first: tf.Tensor) -> tf.Tensor:
    if stream is None:
      # Of [n, 0], TensorFlow's `unbatch` would read what is not there.
      return tf.zeros([rows.per_chunk, 1])
    return randomness.uniform_draws(
        first, rows.per_chunk, columns.COUNT, seed=seed, stream=stream)

  def draw(chunk: _Batch) -> _Batch:
    first = chunk.pop('first')
    if not careful:
      chunk.pop('candidates', None)
    return chunk | {'draws': tuple(
        draws_of(stream, first) for stream in views.streams)}

  chunks = parallel_map(chunks, draw)
  if isinstance(source, InMemorySource):
    tensors = source.tensors  # copied here, not while tracing
    return parallel_map(chunks, lambda chunk: _render_in_memory(
        chunk, tensors, views, size), rows.chunks_at_once)
  examples = chunks.unbatch()
  if careful:
    return parallel_map(examples, lambda example: _render_a_readable(
        example, source, views, size))
  loaded = parallel_map(examples, lambda example: _load(example, source))
  placed = parallel_map(
      loaded.batch(_PLACED_TOGETHER), lambda some: _place(some, views), BATCHES)
  return parallel_map(placed.unbatch(), lambda example: _render_encoded(
      example, views, size))


def _render_in_memory(
    chunk: _Batch, tensors: dict[str, tf.Tensor], views: _Views, size: int
) -> _Batch:
  gathered = {key: tf.gather(tensor, chunk['index'])
              for key, tensor in tensors.items()}
  images = gathered.pop('image')
  count, height, width = images.shape[:3]
  sizes = tf.constant([[height, width]] * count)
  draws = tf.stack(chunk['draws'])
  boxes, mirrored = views.make_boxes(draws, sizes), views.make_mirrored(draws)
  rendered = tuple(
      render.rows(
          images, boxes[k], mirrored[k], draws[k], size=size, finish=finish)
      for k, finish in enumerate(views.finishes))
  return chunk | gathered | {'images': rendered}


def _load(example: _Batch, source: EncodedSource) -> _Batch:
  """Adds `image`, encoded, its `size`, int32 [2], and perhaps `label`."""
  loaded = source.load(example['index'])
  loaded['image'], loaded['size'] = decoding.measure(
      loaded['image'], source.max_image_pixels)
  return example | loaded


def _place(examples: _Batch, views: _Views) -> _Batch:
  """Where, in several images, is what is shown of them: all axes [n, ...].

  Adds `around`, int32 [n, 4], the part of each image that holds its crops;
  `cuts`, where they are in it, and `mirrored`, for each view.
  """
  draws = tf.stack(examples['draws'])
  boxes = views.make_boxes(draws, examples.pop('size'))
  start = tf.reduce_min(boxes[..., :2], axis=0)
  start -= start % tf.constant([1, decoding.BLOCK])
  end = tf.reduce_max(boxes[..., :2] + boxes[..., 2:], axis=0)
  boxes -= tf.pad(start, [[0, 0], [0, 2]])
  cuts = render.make_cuts(boxes, end - start)
  return examples | {
      'around': tf.concat([start, end - start], axis=-1),
      'cuts': tuple(
          render.Cut(*cut) for cut in zip(*map(tf.unstack, cuts), strict=True)),
      'mirrored': tuple(tf.unstack(views.make_mirrored(draws)))}


def _render_encoded(example: _Batch, views: _Views, size: int) -> _Batch:
  """One example that was loaded and placed."""
  around, cuts, mirrored = (
      example.pop(key) for key in ('around', 'cuts', 'mirrored'))
  image = decoding.decode_part(example.pop('image'), around)
  return example | {'images': tuple(
      render.one(image, cuts[k], mirrored[k], example['draws'][k], size=size,
                 finish=finish)
      for k, finish in enumerate(views.finishes))}


def _render_a_readable(
    example: _Batch, source: EncodedSource, views: _Views, size: int
) -> _Batch:
  """One example: the first of its candidates that can be read."""
  candidates = example.pop('candidates')

  def attempt(index: tf.Tensor) -> _Batch:
    loaded = _load({'index': index, 'draws': example['draws']}, source)
    placed = _place(
        tf.nest.map_structure(lambda x: x[tf.newaxis], loaded), views)
    return _render_encoded(
        tf.nest.map_structure(lambda x: x[0], placed), views, size)

  return example | unreadable.first_readable(
      candidates, attempt, or_blank='mask' in example)


def _join(
    rendered: tf.data.Dataset, source: Source, rows: _Rows,
    finish: Callable[[_Batch], _Batch], num_steps: int) -> tf.data.Dataset:
  """Finished batches of what was rendered, with int32 indices, prefetched."""
  in_chunks = isinstance(source, InMemorySource)

  def join(batch: _Batch) -> _Batch:
    if in_chunks:
      batch = tf.nest.map_structure(
          lambda x: tf.reshape(x, [x.shape[0] * x.shape[1], *x.shape[2:]]),
          batch)
    batch = finish(batch)
    return batch | {key: tf.cast(batch[key], tf.int32)
                    for key in {'index', 'wanted'} & set(batch)}

  # Two at once: one thread copies no more than some thousand images a second.
  dataset = rendered.batch(
      rows.chunks_per_step if in_chunks else rows.per_process,
      drop_remainder=True, num_parallel_calls=BATCHES)
  dataset = parallel_map(dataset, join, BATCHES)
  dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_steps))
  return prefetch_in_order(dataset)

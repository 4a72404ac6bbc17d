"""Packs a folder's images into TFRecord files, which can be read fast anywhere.

The output folder holds SPLIT-00000-of-00016.tfrecord and so on, an index of
each split (`pack_index`), `classes.txt` where there are labels, and what it is
to hold (`pack_plan`). A file gets its name when it is whole and checked, and
its part of the index is kept before that. So whenever packing ends, what has a
name is good, and the next start goes on with the others.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import errno
import os

from absl import logging
import tensorflow as tf

from byol_jax import locks
from byol_jax.config import ConfigError
from byol_jax.data import folder
from byol_jax.data import folder_index
from byol_jax.data import pack_index
from byol_jax.data import pack_plan
from byol_jax.data import pack_shard
from byol_jax.data import pack_threads
from byol_jax.data import remote
from byol_jax.data.pack_index import PackIndex


def pack(
    path: str, output: str, *, splits: Sequence[str], train_split: str,
    shard_megabytes: int, num_threads: int, max_bad_share: float,
    max_pixels: int) -> dict[str, int]:
  """Packs splits of a folder, or goes on with it.

  Args:
    path: of the folder; see `folder`.
    output: a folder, local or not; made if need be.
    splits: of the folder; none: all that there are.
    train_split: as for the folder source.
    shard_megabytes: of the files, about.
    num_threads: of them that are made at the same time.
    max_bad_share: as for the folder source.
    max_pixels: likewise.

  Returns:
    The number of images of each split.

  Raises:
    ConfigError: the folder cannot be read, or the output holds something else,
      or cannot be written.
  """
  _check_output(path, output)
  splits = list(splits) or folder.list_splits(path, train_split)
  pack_plan.check_names(splits)
  found = _read(path, splits, train_split=train_split,
                max_bad_share=max_bad_share, max_pixels=max_pixels)
  plans = {split: pack_plan.plan_split(
      split, images, shard_megabytes=shard_megabytes, max_pixels=max_pixels)
           for split, images in found.items()}
  with _explained(output):
    tf.io.gfile.makedirs(output)
    with locks.hold(os.path.join(output, pack_plan.LOCK), output):
      pack_plan.begin(
          output, os.path.realpath(os.path.expanduser(path)),
          found[splits[0]].class_names, plans)
      _make(output, plans, num_threads)
  return {split: len(images.files) for split, images in found.items()}


def _read(
    path: str, splits: Sequence[str], **settings: str | float,
) -> dict[str, folder.Split]:
  """As the folder source reads them."""
  found = {}
  for split in splits:
    try:
      found[split] = folder.read_split(path, split, **settings)
    except ConfigError as error:
      raise ConfigError(
          f'{error} (of the splits {", ".join(splits)}; --splits=... packs '
          'others)' if len(splits) > 1 else f'{error}') from error
  return found


def _check_output(path: str, output: str) -> None:
  remote.check_scheme(output, f'--output={output}')
  real = os.path.realpath(os.path.expanduser(path))
  if not remote.is_remote(output) and not folder_index.leads_out(real, output):
    raise ConfigError(
        f'--output={output} is in the folder that is packed; name one beside '
        'it')


@contextlib.contextmanager
def _explained(output: str) -> Iterator[None]:
  """What the file system says, in one line that says how to go on."""
  try:
    yield
  except (OSError, tf.errors.OpError) as error:
    if isinstance(error, OSError):
      reason = error.strerror or str(error)
    else:
      reason = ' '.join(error.message.split())[:200]
    full = getattr(error, 'errno', None) == errno.ENOSPC or (
        'No space left' in reason)
    raise ConfigError(
        f'--output={output} cannot be written or read ({reason}); '
        + ('make space and ' if full else '')
        + 'run the same command again: it goes on') from error


def _make(
    output: str, plans: dict[str, pack_plan.SplitPlan],
    num_threads: int) -> None:
  """Makes what is not there, or not as it should be, in threads."""
  tf.io.gfile.makedirs(os.path.join(output, pack_plan.UNFINISHED))
  known = {}
  for split in plans:
    index = pack_index.load(pack_index.path_of(output, split))
    known |= pack_index.split_up(index) if index else {}
  shards = [shard for plan in plans.values() for shard in plan.shards]
  num_images = sum(len(shard.files) for shard in shards)
  logging.info('Packing %d images into %d files of %s.', num_images,
               len(shards), output)
  progress = pack_threads.Progress('Packed', num_images)
  parts = pack_threads.run_all(
      lambda shard: _make_shard(output, shard, known, progress), shards,
      num_threads, progress)
  parts = dict(zip([shard.name for shard in shards], parts, strict=True))
  for split, plan in plans.items():
    pack_index.save(pack_index.path_of(output, split), pack_index.join(
        [parts[shard.name] for shard in plan.shards]))
  tf.io.gfile.rmtree(os.path.join(output, pack_plan.UNFINISHED))


def _make_shard(
    output: str, shard: pack_shard.ShardPlan, known: dict[str, PackIndex],
    progress: pack_threads.Progress) -> PackIndex:
  """One file, unless it is there already; its index."""
  path = os.path.join(output, shard.name)
  unfinished = os.path.join(output, pack_plan.UNFINISHED, shard.name)
  part = f'{unfinished}.npz'
  index = known.get(shard.name) or pack_index.load(part)
  if index is not None and tf.io.gfile.exists(path):
    if pack_shard.sha256(path, progress.advance) == index.shard_sha256[0]:
      progress.advance(len(shard.files), 0)
      return index
    logging.warning('%s is damaged: it is made again.', path)
  index = pack_shard.write(shard, unfinished, progress.advance)
  pack_index.save(part, index)
  remote.replace(unfinished, path)
  return index


def verify(output: str, *, num_threads: int) -> dict[str, int]:
  """Reads all that was packed and compares it with what was written down.

  Args:
    output: as `pack` made it.
    num_threads: of files that are read at the same time.

  Returns:
    The number of images of each split.

  Raises:
    ConfigError: something is missing or damaged, or not finished.
  """
  remote.check_scheme(output, f'--output={output}')
  with _explained(output):
    counts = pack_plan.check_complete(output)
    parts = {}
    for split in counts:
      index = pack_index.load(pack_index.path_of(output, split))
      parts |= pack_index.split_up(index)
    progress = pack_threads.Progress('Read', sum(counts.values()))
    found = pack_threads.run_all(
        lambda name: _problem(os.path.join(output, name), parts[name],
                              progress), list(parts), num_threads, progress)
  problems = list(filter(None, found))
  if problems:
    raise ConfigError(
        f'{len(problems)} of {len(parts)} files are missing or damaged: '
        f'{problems[0]}; the command that packed them makes them again')
  return counts


def _problem(
    path: str, index: PackIndex, progress: pack_threads.Progress) -> str:
  """What is wrong with a file; '' where nothing is."""
  try:
    found = pack_shard.check(path, index, progress.advance)
  except tf.errors.NotFoundError:
    return f'{path} is missing'
  except pack_shard.DamagedError as error:
    return str(error)
  same = found == index.shard_sha256[0]
  return '' if same else f'{path} is damaged: its SHA-256 is another'

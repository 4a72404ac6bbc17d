"""What a folder of packed shards is to hold, and whether it is that.

`_pack.json` says it from the first moment on, so that a second start goes on
with the same images, or refuses.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import os
from typing import Any

import numpy as np
import tensorflow as tf

from byol_jax.config import ConfigError
from byol_jax.data import folder
from byol_jax.data import pack_index
from byol_jax.data import pack_shard
from byol_jax.data import remote

LOCK = '.lock'
UNFINISHED = '_unfinished'
_FORMAT = 1
_FILE, _CLASSES = '_pack.json', 'classes.txt'
_MEGABYTE = 10**6
# More than one, so that they are written, and by others read, in parallel.
_MIN_SHARDS = 16
_SPLIT_ENDS = '-_.'  # where `tfrecord_source` ends a split's name


@dataclasses.dataclass(frozen=True, eq=False)
class SplitPlan:
  """A split's files, and what `_pack.json` says of it."""
  shards: list[pack_shard.ShardPlan]
  summary: dict[str, Any]


def check_names(splits: Sequence[str]) -> None:
  """Raises ConfigError for names by which splits could not be told apart."""
  for split in splits:
    if not split or split.startswith(('.', '_')) or '/' in split:
      raise ConfigError(
          f'the split {split!r} cannot be packed: expected the name of a '
          'folder, without a . or _ before it')
    for other in splits:
      if other.startswith(tuple(split + end for end in _SPLIT_ENDS)):
        raise ConfigError(
            f'the splits {split} and {other} would be taken for one, as their '
            f'files begin alike; pack {other} into a folder of its own '
            '(--splits)')


def plan_split(
    split: str, found: folder.Split, *, shard_megabytes: int, max_pixels: int,
) -> SplitPlan:
  """Cuts a split's images, in their order, into files of about one size."""
  sizes = np.array([file.num_bytes for file in found.files], np.int64)
  ends = np.cumsum(sizes)
  total = int(ends[-1])
  wanted = max(-(-total // (shard_megabytes * _MEGABYTE)),
               min(_MIN_SHARDS, -(-total // _MEGABYTE)))
  # Where one image is as large as several files, there are fewer.
  cuts = np.unique(np.searchsorted(
      ends, np.arange(1, wanted) * total // wanted, side='right'))
  cuts = [0, *(int(cut) for cut in cuts if 0 < cut < len(sizes)), len(sizes)]
  labels = np.zeros(0, np.int32) if found.labels is None else found.labels
  shards = [pack_shard.ShardPlan(
      name=f'{split}-{i:05d}-of-{len(cuts) - 1:05d}.tfrecord', root=found.root,
      files=found.files[begin:end], labels=labels[begin:end],
      max_pixels=max_pixels)
            for i, (begin, end) in enumerate(zip(cuts, cuts[1:], strict=False))]
  images = repr([(*file.state, file.plain) for file in found.files])
  return SplitPlan(shards, {
      'num_images': len(sizes), 'num_shards': len(shards),
      'shard_megabytes': shard_megabytes,
      'images': hashlib.sha256(images.encode()).hexdigest(),
      'labels': hashlib.sha256(labels.tobytes()).hexdigest()})


def read(output: str) -> dict[str, Any] | None:
  """What `_pack.json` says; None where there is none."""
  path = os.path.join(output, _FILE)
  if not tf.io.gfile.exists(path):
    return None
  try:
    with tf.io.gfile.GFile(path) as file:
      manifest = json.loads(file.read())
    if manifest['format'] == _FORMAT and manifest['splits'].keys():
      return manifest
  except (ValueError, KeyError, TypeError, AttributeError):
    pass
  raise ConfigError(
      f'{path} is damaged, or of another version of byol_jax.pack; delete '
      f'{output} and pack anew')


def check_complete(output: str) -> dict[str, int]:
  """The number of images of each split.

  Raises:
    ConfigError: the folder was not packed, or not to its end.
  """
  manifest = read(output)
  if manifest is None:
    raise ConfigError(f'--output={output} holds nothing that was packed')
  for split, summary in manifest['splits'].items():
    index = pack_index.load(pack_index.path_of(output, split))
    if index is None or len(index.length) != summary['num_images']:
      raise ConfigError(
          f'--output={output} ({split}) is not packed to its end, or its index '
          'is damaged; run the command that packed it again')
  names = manifest['class_names']
  if names is not None and _read_classes(output) != _class_lines(names):
    raise ConfigError(
        f'{os.path.join(output, _CLASSES)} is missing or damaged; run the '
        'command that packed it again')
  return {split: summary['num_images']
          for split, summary in manifest['splits'].items()}


def _read_classes(output: str) -> bytes:
  try:
    with tf.io.gfile.GFile(os.path.join(output, _CLASSES), 'rb') as file:
      return file.read()
  except tf.errors.NotFoundError:
    return b''


def _class_lines(names: Sequence[str]) -> bytes:
  return ''.join(f'{name}\n' for name in names).encode()


def begin(
    output: str, data: str, class_names: tuple[str, ...] | None,
    splits: dict[str, SplitPlan]) -> None:
  """Writes down what a folder is to hold, beside what it holds already.

  Args:
    output: the folder, made if need be.
    data: the folder of images, from the root.
    class_names: as the folder source has them.
    splits: by name.

  Raises:
    ConfigError: it holds something else.
  """
  odd = [name for name in class_names or () if name != name.strip()]
  if odd:
    raise ConfigError(
        f'the class {odd[0]!r} begins or ends with a space, which {_CLASSES} '
        'cannot say; rename its folder')
  manifest = read(output)
  if manifest is None:
    if _entries(output):
      raise ConfigError(
          f'--output={output} holds {_entries(output)[0]}, which is none of '
          'byol_jax.pack; expected a new folder, or one that it began')
    manifest = {'format': _FORMAT, 'data': data, 'splits': {},
                'class_names': class_names and list(class_names)}
  _compare(output, manifest, data, class_names, splits)
  check_names([*manifest['splits'].keys() | splits.keys()])
  manifest['splits'] |= {name: plan.summary for name, plan in splits.items()}
  remote.write_whole(
      os.path.join(output, _FILE), json.dumps(manifest, indent=2).encode())
  if class_names is not None:
    remote.write_whole(
        os.path.join(output, _CLASSES), _class_lines(class_names))


def _entries(output: str) -> list[str]:
  return sorted(name for name in tf.io.gfile.listdir(output)
                if not name.startswith('.'))


def _compare(
    output: str, manifest: dict[str, Any], data: str,
    class_names: tuple[str, ...] | None, splits: dict[str, SplitPlan]) -> None:
  def refuse(what: str) -> None:
    raise ConfigError(
        f'--output={output} {what}; name another folder, or delete it')

  if manifest['data'] != data:
    refuse(f'holds images of {manifest["data"]}, not of {data}')
  if manifest['class_names'] != (class_names and list(class_names)):
    refuse(f'was begun when {data} had other classes')
  for name, plan in splits.items():
    old = manifest['splits'].get(name, plan.summary)
    if old['num_images'] != plan.summary['num_images']:
      refuse(f'was begun when {data} ({name}) had {old["num_images"]} images; '
             f'now it has {plan.summary["num_images"]}')
    if any(old[key] != plan.summary[key] for key in ('images', 'labels')):
      refuse(f'was begun with other images: files of {data} ({name}) have '
             'changed since')
    if old != plan.summary:
      refuse(f'was begun with --shard_megabytes={old["shard_megabytes"]}')

"""Packs a folder of images into TFRecord files, once, for fast reading.

    python -m byol_jax.pack --data=folder:PATH --output=DIR

Many small files are slow to open and to copy; DIR is a few large ones with an
index. `--config.data=tfrecord:DIR` then gives what `folder:PATH` gave: the same
images bit for bit, labels and names, in the same order, so the same batches.

Images are copied as they are; those that TensorFlow would show otherwise than a
viewer become PNGs, as the folder source makes them. Bad ones are named and left
out. Every file is read again and compared before it counts. Killed at any
moment, the same command goes on; given again later, it makes again what has
rotted. `--verify --output=DIR` only reads and checks everything.
"""

from collections.abc import Sequence
import os
import shlex

from absl import flags

from byol_jax import config as config_lib
from byol_jax import jobs
from byol_jax import places
from byol_jax import stopping

_BASE = config_lib.get_base_config()

_DATA = flags.DEFINE_string(
    'data', None, 'The images, as folder:PATH.')
_OUTPUT = flags.DEFINE_string(
    'output', None, 'The folder to write, local or gs://; made if it is not '
    'there.')
_SPLITS = flags.DEFINE_list(
    'splits', [], 'Of the folder, such as train,val; the default is all that '
    'there are.')
_TRAIN_SPLIT = flags.DEFINE_string(
    'train_split', _BASE.train_split, 'The split whose folders are the '
    'classes, and what a folder without splits is.')
_SHARD_MEGABYTES = flags.DEFINE_integer(
    'shard_megabytes', 192, 'Of the files, about; there are at least 16 of '
    'them, or one for each megabyte.', lower_bound=1)
_NUM_THREADS = flags.DEFINE_integer(
    'num_threads', 8, 'Files that are made at the same time.', lower_bound=1,
    upper_bound=256)
_MAX_BAD_SHARE = flags.DEFINE_float(
    'max_bad_image_share', _BASE.max_bad_image_share,
    'Of the image files; above, stop.', lower_bound=0.0, upper_bound=1.0)
_MAX_PIXELS = flags.DEFINE_integer(
    'max_image_pixels', _BASE.max_image_pixels,
    'Of an image; larger ones count as bad.', lower_bound=1)
_VERIFY = flags.DEFINE_bool(
    'verify', False, 'Only read and check what --output holds.')


def main(_: Sequence[str]) -> None:
  """Packs, or verifies."""
  kind, _, path = (_DATA.value or '').partition(':')
  if _VERIFY.value and _DATA.value:
    raise config_lib.ConfigError(
        '--verify reads --output alone; give it without --data')
  if not _VERIFY.value and (kind != 'folder' or not path):
    raise config_lib.ConfigError(
        f'--data is {_DATA.value or ""!r}; expected folder:PATH, the only kind '
        'that is packed')
  if not _VERIFY.value:
    places.check_data(_DATA.value)
  # Imported here, so that --help does not wait for TensorFlow.
  # pylint: disable=g-import-not-at-top
  from byol_jax.data import packing
  output = os.path.expanduser(_OUTPUT.value)
  with stopping.requests(
      at_once=True, kept='what is packed so far is kept, and the same command '
      'goes on'):
    if _VERIFY.value:
      counts = packing.verify(output, num_threads=_NUM_THREADS.value)
      print(f'{output} is whole: {_describe(counts)}')
      return
    counts = packing.pack(
        path, output, splits=_SPLITS.value, train_split=_TRAIN_SPLIT.value,
        shard_megabytes=_SHARD_MEGABYTES.value,
        num_threads=_NUM_THREADS.value, max_bad_share=_MAX_BAD_SHARE.value,
        max_pixels=_MAX_PIXELS.value)
  print(f'packed and checked {_describe(counts)}; a run on them has '
        + _flags(output, list(counts)))


def _describe(counts: dict[str, int]) -> str:
  return ', '.join(f'{count} images of {split}'
                   for split, count in counts.items())


def _flags(output: str, splits: list[str]) -> str:
  """Of a run on what was packed."""
  flags_of_run = [f'--config.data=tfrecord:{output}']
  if _TRAIN_SPLIT.value in splits:
    flags_of_run.append(f'--config.train_split={_TRAIN_SPLIT.value}')
    others = [split for split in splits if split != _TRAIN_SPLIT.value]
    flags_of_run.append(f"--config.test_split={others[0] if others else ''}")
  return ' '.join(map(shlex.quote, flags_of_run))


if __name__ == '__main__':
  flags.mark_flag_as_required('output')
  jobs.run(main)

"""Makes scenes with label maps and depths, to try protocols on.

    python -m byol_jax.dense_scenes --output=DIR

writes DIR/unlabelled/ (frames to pretrain on, as `folder:DIR/unlabelled`) and
DIR/train, DIR/test and DIR/classes.txt, as `pairs:DIR`. The same arguments
give the same pixels. What is in a scene, `data/dense_scenes.py` says.
"""

from collections.abc import Sequence

from absl import flags
from absl import logging

from byol_jax import config as config_lib
from byol_jax import jobs

_OUTPUT = flags.DEFINE_string('output', None, 'Folder to write.')
_DATA = flags.DEFINE_string('data', 'tfds:cifar10', 'Labelled pictures.')
_TRAIN_SPLIT = flags.DEFINE_string('train_split', 'train', 'Of the pictures.')
_TEST_SPLIT = flags.DEFINE_string('test_split', 'test', 'Of the pictures.')
_NUM_UNLABELLED = flags.DEFINE_integer(
    'num_unlabelled', 2000, 'Frames without maps.')
_NUM_TRAIN = flags.DEFINE_integer(
    'num_train', 100, 'Scenes with maps to train on.')
_NUM_TEST = flags.DEFINE_integer(
    'num_test', 200, 'Scenes with maps to test on.')
_HEIGHT = flags.DEFINE_integer('height', 96, 'Pixels, a multiple of 32.')
_WIDTH = flags.DEFINE_integer('width', 128, 'Pixels, a multiple of 32.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of every draw.')


def main(_: Sequence[str]) -> None:
  """Writes what the flags say."""
  # Imported here, so that --help answers at once.
  from byol_jax.data import dense_scenes
  from byol_jax.data import sources
  config = config_lib.get_base_config()
  config.data = _DATA.value
  train, test = (
      dense_scenes.Pictures(sources.create_source(config, split))
      for split in (_TRAIN_SPLIT.value, _TEST_SPLIT.value))
  dense_scenes.write_scenes(
      _OUTPUT.value, train=train, test=test,
      num_unlabelled=_NUM_UNLABELLED.value, num_train=_NUM_TRAIN.value,
      num_test=_NUM_TEST.value, height=_HEIGHT.value, width=_WIDTH.value,
      seed=_SEED.value)
  logging.info(
      'wrote %d unlabelled scenes, %d to train and %d to test on, to %s',
      _NUM_UNLABELLED.value, _NUM_TRAIN.value, _NUM_TEST.value, _OUTPUT.value)


if __name__ == '__main__':
  flags.mark_flag_as_required('output')
  jobs.run(main)

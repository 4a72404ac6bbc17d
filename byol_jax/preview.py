"""Draws originals and their two views: what the encoder will be shown.

  python -m byol_jax.preview --config=configs/NAME.py --output=views.png

Look at it before a long run: a view should still be recognisable as its
original, and the two views of one original should differ.
"""

from collections.abc import Sequence

from absl import flags
from absl import logging
from ml_collections import config_flags

from byol_jax import config_rules
from byol_jax import jobs
from byol_jax import places

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The run whose data and augmentation to show.')
_OUTPUT = flags.DEFINE_string(
    'output', 'views.png', 'The PNG file to write.')
_NUM_IMAGES = flags.DEFINE_integer(
    'num_images', 8, 'How many originals.', lower_bound=1)


def main(argv: Sequence[str]) -> None:
  del argv
  config = _CONFIG.value
  config_rules.validate(config)
  places.check_data(config.data)
  # Imported here, so that --help does not wait for TensorFlow.
  # pylint: disable=g-import-not-at-top
  from byol_jax.data import preview_grid
  from byol_jax.data import sources
  source = sources.create_source(config, config.train_split)
  picture = preview_grid.create_preview(
      source, config, num_images=_NUM_IMAGES.value)
  preview_grid.write_png(picture, _OUTPUT.value)
  logging.info('Wrote %s.', _OUTPUT.value)


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  jobs.run(main)

"""Opens a dataset: `create_source(config, split)`.

`config.data` says which:
  tfds:NAME[/CONFIG][:VERSION]  an image dataset of TFDS; `/VERSION` works too
  folder:PATH                   a folder of images, see `folder`
  tfrecord:PATTERN              files of tf.train.Example, see `tfrecord_source`
  arrays:PATH.npz               images in NumPy arrays, see `arrays`
  fake[:N]                      N deterministic random images, see `arrays`
  voc:PATH, cityscapes:PATH, pairs:PATH
                                images with label or depth maps, see `dense`
"""

import ml_collections

from byol_jax import config_rules
from byol_jax.data import arrays
from byol_jax.data.examples import Source


def create_source(config: ml_collections.ConfigDict, split: str) -> Source:
  """Opens one split of `config.data`.

  Args:
    config: `data`, `data_dir`, `cache_bytes`, `image_size`, `train_split`,
      `max_bad_image_share` and `max_image_pixels` are read.
    split: as the dataset calls it.

  Returns:
    A source of at least one example.

  Raises:
    ConfigError: there is no such dataset or split, or it cannot be used; the
      message says what there is.
  """
  config_rules.check_data(config.data)
  kind, _, place = config.data.partition(':')
  if kind == 'fake':
    return arrays.create_fake_source(place, split, config.image_size)
  if kind == 'arrays':
    return arrays.create_arrays_source(place, split)
  # Imported here: TFDS and Pillow are not needed by the other sources.
  # pylint: disable=g-import-not-at-top
  if kind == 'tfds':
    from byol_jax.data import tfds_source
    return tfds_source.create_tfds_source(
        place, split, data_dir=config.data_dir,
        cache_bytes=config.cache_bytes,
        max_pixels=config.max_image_pixels)
  if kind == 'folder':
    from byol_jax.data import folder
    return folder.create_folder_source(
        place, split, train_split=config.train_split,
        cache_bytes=config.cache_bytes,
        max_bad_share=config.max_bad_image_share,
        max_pixels=config.max_image_pixels)
  if kind == 'tfrecord':
    from byol_jax.data import tfrecord_source
    return tfrecord_source.create_tfrecord_source(
        place, split, train_split=config.train_split,
        cache_bytes=config.cache_bytes, max_pixels=config.max_image_pixels)
  # What is left of the kinds that the rules know: voc, cityscapes, pairs.
  from byol_jax.data import dense
  return dense.create_dense_source(
      kind, place, split, train_split=config.train_split,
      max_pixels=config.max_image_pixels)

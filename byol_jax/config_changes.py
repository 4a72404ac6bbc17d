"""Where two configurations differ, and what that means for a run."""

import ml_collections

from byol_jax import config as config_lib
from byol_jax import config_rules


def differences(
    a: ml_collections.ConfigDict, b: ml_collections.ConfigDict
) -> list[str]:
  """Lines `field: value in a, value in b`, for the fields that differ."""
  flat_a, flat_b = (
      config_lib.flatten(config_lib.to_dict(x)) for x in (a, b))
  return [
      f'{name}: {flat_a.get(name)!r}, {flat_b.get(name)!r}'
      for name in sorted(flat_a | flat_b)
      if flat_a.get(name) != flat_b.get(name)]


# Fields that decide the shape of what a checkpoint holds.
NETWORK_FIELDS = (
    'encoder', 'resnet.', 'projector.', 'predictor.', 'encoder_norm',
    'projector_norm', 'predictor_norm', 'target', 'optimizer', 'online_probe',
    'predictor_learning_rate_multiplier', 'clip_trust_ratio')


def network_differences(
    a: ml_collections.ConfigDict, b: ml_collections.ConfigDict
) -> list[str]:
  """`differences` among the fields that decide what a checkpoint means."""
  fields = NETWORK_FIELDS + norm_fields(a) + norm_fields(b)
  return [
      line for line in differences(a, b)
      if line.split(':')[0] in fields
      or line.startswith(tuple(f for f in fields if f.endswith('.')))]


# Fields that leave the rest of a run as it would have been, or only add to it.
FREE_FIELDS = (
    'name', 'published', 'data_dir', 'test_split', 'valid_split',
    'test_image_size', 'test_crop_ratio', 'max_bad_image_share',
    'init_from', 'log_every_steps', 'checkpoint_every_steps',
    'checkpoints_to_keep', 'evaluate_every_steps', 'evaluate_batch_size',
    'on_nonfinite', 'max_rewinds', 'final_protocols', 'metric', 'knn.',
    'linear.', 'logistic.', 'semi_supervised.', 'finetune.', 'segmentation.',
    'depth.')


def is_free(field: str) -> bool:
  """Whether a run may go on with another value: see `FREE_FIELDS`."""
  return field in FREE_FIELDS or field.startswith(
      tuple(name for name in FREE_FIELDS if name.endswith('.')))


def norm_fields(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Fields that leave parameters' shapes alone, and change what they do."""
  norms = config_rules.norms_in_use(config)
  fields = ('norm_epsilon',) if norms - {'none'} else ()
  if 'group_ws' in norms:
    fields += ('norm_groups', 'weight_standardization_epsilon')
  return fields

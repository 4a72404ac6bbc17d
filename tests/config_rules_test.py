"""Every rule that a configuration's fields must obey."""

import pytest

from byol_jax import config as config_lib
from byol_jax import config_rules


@pytest.mark.parametrize('field, value, message', [
    ('data', 'what:ever', "data is 'what:ever'; expected tfds:NAME"),
    ('data', 'folder:', 'expected tfds:NAME'),
    ('encoder', 'resnet19', 'expected one of resnet10'),
    ('target', 'mean', 'expected one of ema'),
    ('base_tau', 1.5, 'expected in [0, 1]'),
    ('batch_size', 30, 'a multiple of 4 devices'),
    ('accumulation_steps', 3, 'x 3 accumulation'),
    ('image_size', 16, 'expected at least 32'),
    ('augment.view1.flip_prob', 2.0, 'augment.view1.flip_prob'),
    ('augment.view2.crop_area_range', (0.5, 0.1), 'in order'),
    ('augment.view2.crop_area_range', (0.5, 2.0), 'expected in [0, 1]'),
    ('augment.view1.hue', -0.1, 'at least 0'),
    ('log_every_steps', 0, 'expected at least 1'),
    ('test_image_size', 0, 'config.test_image_size is 0'),
    ('knn.max_train_examples', 0, 'expected at least 1'),
    ('linear.num_epochs', 0, 'expected at least 1'),
    ('linear.batch_size', 0, 'expected at least 1'),
    ('linear.momentum', 1.5, 'expected in [0, 1]'),
    ('linear.base_learning_rates', (-0.1,), 'expected at least 0'),
    ('norm_epsilon', 0.0, 'expected at least 1e-12'),
    ('weight_standardization_epsilon', 0.0, 'expected at least 1e-12'),
    ('encoder_norm', 'bn', 'expected one of batch, batch_local, group_ws, '
     'layer, instance, none, affine_init'),
    ('predictor_norm', 'weight', 'config.predictor_norm is \'weight\''),
    ('trust_coefficient', -1.0, 'expected at least 0'),
    ('predictor_learning_rate_multiplier', -1.0, 'expected at least 0'),
    ('seed', -1, 'config.seed is -1, expected at least 0'),
    ('base_learning_rate', float('nan'), 'expected finite numbers'),
    ('augment.view1.blur_sigma_range', (0.1, float('inf')), 'finite'),
    ('linear.base_learning_rates', (float('nan'),), 'finite'),
    ('augment.mean', (0.5,), 'expected three numbers'),
    ('augment.std', (0.2, 0.2, 0.2, 0.2), 'expected three numbers'),
    ('augment.std', (0.2, 0.0, 0.2), 'expected at least 1e-06'),
    ('linear.base_learning_rates', (0.1, -0.1), 'expected at least 0'),
    ('resnet.channels_per_group', (8, 8, 8), 'expected four numbers'),
    ('resnet.channels_per_group', (8, 8, 6, 8), 'expected multiples of 4'),
    ('resnet.channels_per_group', (8, 8, 0, 8), 'expected at least 1'),
    ('final_protocols', ('knn', 'svm'), "'svm'), expected one of knn, linear"),
])
def test_broken_rules(field, value, message):
  config = config_lib.get_base_config()
  config.batch_size = 64
  config_lib.set_field(config, field, value)
  with pytest.raises(config_lib.ConfigError) as error:
    config_rules.validate(config, num_devices=4)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('fields, message', [
    (dict(encoder_norm='group_ws', norm_groups=24),
     'config.norm_groups is 24 and config.resnet.width gives 64 channels, '
     'expected a divisor: 1, 2, 4, 8, 16, 32, 64'),
    ({'projector_norm': 'group_ws', 'projector.hidden_size': 100},
     'config.projector.hidden_size gives 100 channels, expected a divisor: '
     '1, 2, 4, 5, 10, 20, 25, 50'),
    # A group of one number is its own mean.
    ({'predictor_norm': 'group_ws', 'predictor.hidden_size': 16},
     'expected a divisor: 1, 2, 4, 8'),
    ({'encoder_norm': 'group_ws', 'resnet.channels_per_group': (
        32, 64, 64, 64)},  # in bottlenecks a quarter of it
     'config.resnet.channels_per_group gives 8 channels, expected'),
    (dict(projector_norm='affine_init', batch_size=1),
     'config.batch_size is 1 in 1 micro-batches, expected at least 2'),
    (dict(encoder_norm='affine_init', batch_size=8, accumulation_steps=8),
     'config.batch_size is 8 in 8 micro-batches, expected at least 2'),
    (dict(encoder_norm='instance', image_size=32),
     'config.image_size is 32 with config.encoder_norm=instance, expected '
     'more than 32'),
    (dict(encoder_norm='instance', test_image_size=32),
     'config.test_image_size is 32 with config.encoder_norm=instance'),
    ({'encoder_norm': 'none', 'resnet.zero_gamma': True}, 'needs scales'),
])
def test_norms_that_cannot_work(fields, message):
  config = config_lib.get_base_config()
  for field, value in fields.items():
    config_lib.set_field(config, field, value)
  with pytest.raises(config_lib.ConfigError) as error:
    config_rules.validate(config)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def test_a_head_without_layers_to_normalise_has_no_groups():
  config = config_lib.get_base_config()
  config.predictor_norm = 'group_ws'
  config.predictor.update(depth=1, hidden_size=1)
  config_rules.validate(config)


def test_a_custom_encoder_has_its_own_norm():
  config = config_lib.get_base_config()
  config.encoder_norm = 'layer'
  with pytest.raises(config_lib.ConfigError, match='build the layers into it'):
    config_rules.validate(config, custom_encoder=True)


def test_negatives_need_l2():
  config = config_lib.get_base_config()
  config.beta, config.loss_normalization = 0.5, 'batch'
  with pytest.raises(config_lib.ConfigError, match='need l2'):
    config_rules.validate(config)

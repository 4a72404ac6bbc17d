"""Signs of collapse, the words for them, and their causes."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from byol_jax import config as config_lib
from byol_jax.evaluation import collapse
from byol_jax.evaluation import diagnostics
from byol_jax.evaluation import features
from configs import quickstart


def _features(embedding, projection=None):
  return features.Features(
      np.asarray(embedding, np.float32),
      np.arange(len(embedding), dtype=np.int32), projection=projection)


class SignsTest(parameterized.TestCase):

  def test_constant_features(self):
    constant = np.full((100, 16), 0.3, np.float32)
    metrics = dict(diagnostics.run(_features(constant, constant)))
    signs = collapse.find_signs(
        metrics | {'train/projection_std': 0.001, 'train/embedding_std': 0.0})
    self.assertLen(signs, 6)
    self.assertSameElements(signs, collapse.THRESHOLDS)
    for name, sign in signs.items():
      self.assertIn(name, sign)

  @parameterized.parameters(*collapse.THRESHOLDS)
  def test_each_is_a_sign_of_its_own(self, name):
    """Just below its threshold, whatever the others are."""
    threshold = {
        'train/embedding_std': 0.05, 'train/projection_std': 0.1,
        'diagnostics/embedding_std': 0.02, 'diagnostics/projection_std': 0.05,
        'diagnostics/embedding_rank': 3.0, 'diagnostics/projection_rank': 3.0,
    }[name]
    healthy = {other: 50.0 for other in collapse.THRESHOLDS}
    self.assertLen(collapse.find_signs(
        healthy | {name: 0.99 * threshold}), 1)
    self.assertEqual(collapse.find_signs(
        healthy | {name: 1.01 * threshold}), {})

  @parameterized.parameters((100, 2), (4, 64))
  def test_few_possible_directions_are_no_sign(self, count, size):
    """Of two dimensions, or four images, no more can be used."""
    rows = np.random.default_rng(0).normal(size=(count, size))
    metrics = dict(diagnostics.run(_features(rows, rows)))
    self.assertNotIn('diagnostics/projection_rank', metrics)
    self.assertEqual(collapse.find_signs(metrics), {})

  @parameterized.parameters(*collapse.THRESHOLDS)
  def test_few_directions_alone_are_no_collapse(self, name):
    """As LARS with group norm has them: rank 2.6, and 8.9 points gained."""
    healthy = {other: 50.0 for other in collapse.THRESHOLDS}
    self.assertEqual(
        collapse.judge(healthy), {'collapsed': False, 'signs': []})
    judged = collapse.judge(
        healthy | {name: 0.001 if name.endswith('std') else 2.6})
    self.assertEqual(
        judged['collapsed'], name != 'diagnostics/projection_rank')
    (sign,) = judged['signs']
    self.assertIn(name, sign)

  @parameterized.parameters((0.0, True), (1.1, True), (2.6, False))
  def test_projections_on_a_line_have_collapsed(self, rank, expected):
    """Although they may be spread along it; on three axes it is a sign."""
    judged = collapse.judge({
        'train/projection_std': 0.8, 'diagnostics/projection_rank': rank})
    self.assertEqual(judged['collapsed'], expected)
    self.assertLen(judged['signs'], 1)

  def test_nothing_measured_is_not_judged(self):
    self.assertEqual(collapse.judge({'train/loss': 1.0}), {})

  def test_random_features(self):
    rng = np.random.default_rng(0)
    # After a ReLU, as an encoder's embeddings are.
    embedding = np.maximum(rng.normal(size=(500, 64)) + 1, 0)
    projection = rng.normal(size=(500, 32))
    metrics = dict(diagnostics.run(_features(embedding, projection)))
    self.assertEqual(collapse.find_signs(metrics | {
        'train/embedding_std': metrics['diagnostics/embedding_std'],
        'train/projection_std': metrics['diagnostics/projection_std'],
    }), {})

  @parameterized.parameters(
      # Measured: ResNets 10 to 50, random, with batch statistics.
      (0.327, 0.79, 96.7, 99.4), (0.416, 0.80, 45.4, 66.3),
      (0.739, 0.81, 255.7, 136.0),
      # ResNet-50 without normalisation, and with layer norm.
      (0.266, 0.338, 204.1, 81.0), (0.126, 0.142, 229.0, 90.9))
  def test_no_alarm_on_random_initialisation(
      self, embedding_std, projection_std, embedding_rank, projection_rank):
    self.assertEqual(collapse.find_signs({
        'train/embedding_std': embedding_std,
        'train/projection_std': projection_std,
        'diagnostics/embedding_rank': embedding_rank,
        'diagnostics/projection_rank': projection_rank}), {})

  def test_what_is_not_a_number_is_no_sign(self):
    """The loop stops for it, and the report names it, on their own."""
    rows = np.full((20, 8), np.nan, np.float32)
    metrics = dict(diagnostics.run(_features(rows)))
    self.assertTrue(np.isnan(metrics['diagnostics/embedding_rank']))
    self.assertEqual(collapse.find_signs(metrics), {})

  @parameterized.parameters(
      (50, 1000, 100), (200, 1000, 200), (0, 50, 5), (8, 8, 7), (0, 1, 0))
  def test_quiet_until_the_rate_was_at_work(self, warmup, total, expected):
    self.assertEqual(collapse.quiet_steps(warmup, total), expected)

  def test_rows_without_these_metrics(self):
    self.assertEqual(collapse.find_signs({'train/loss': 0.0}), {})


class WatchTest(absltest.TestCase):

  def test_each_sign_once_and_the_causes_with_the_first(self):
    watch = collapse.Watch(_config({'predictor.depth': 0}), quiet_steps=100)
    bad = {'train/projection_std': 0.05}
    self.assertEmpty(list(watch.look(100, bad)))
    sign, cause = watch.look(101, bad)
    self.assertStartsWith(sign, 'WARNING: step 101: projections are')
    self.assertIn('config.predictor.depth=0', cause)
    self.assertEmpty(list(watch.look(102, {'train/projection_std': 0.01})))
    (sign,) = watch.look(103, {'diagnostics/projection_rank': 1.0})
    self.assertStartsWith(sign, 'WARNING: step 103: projections use fewer')

  def test_a_recovery_is_said_and_what_hovers_is_not(self):
    watch = collapse.Watch(_config({}), quiet_steps=0)
    name = 'train/projection_std'
    self.assertLen(list(watch.look(1, {name: 0.09})), 2)
    self.assertEmpty(list(watch.look(2, {name: 0.15})))
    self.assertEmpty(list(watch.look(3, {name: 0.09, 'train/loss': 1.0})))
    self.assertEqual(
        list(watch.look(4, {name: 0.812})),
        ['step 4: train/projection_std has recovered, to 0.812'])
    self.assertLen(list(watch.look(5, {name: 0.01})), 2)


class CausesTest(parameterized.TestCase):

  @parameterized.parameters(
      {}, {'base_tau': 1.0, 'tau_schedule': 'constant'},
      # A target that never moves needs no predictor.
      {'base_tau': 1.0, 'predictor.depth': 0},
      # A fast predictor; negatives; SimCLR.
      {'target': 'stop_gradient', 'predictor_learning_rate_multiplier': 10.0},
      {'base_tau': 0.0, 'beta': 1.0}, {'predictor.depth': 0, 'beta': 0.1},
      {'base_tau': 1.0, 'predictor_learning_rate_multiplier': 0.0},
      {'target': 'online', 'predictor.depth': 0, 'beta': 1.0},
      # The paper's rows that learn, well or less so.
      {'base_tau': 0.9}, {'base_learning_rate': 1.0},
      {'base_learning_rate': 0.01}, {'batch_size': 64},
      {'batch_size': 4096, 'accumulation_steps': 64},
      {'encoder_norm': 'none', 'projector_norm': 'none',
       'encoder': 'MyEncoder', 'projector.depth': 1, 'batch_size': 256},
      {'encoder_norm': 'affine_init', 'projector_norm': 'affine_init'},
      {'projector_norm': 'none'}, {'encoder_norm': 'none'},
      # Rates that are the optimizer's own.
      {'optimizer': 'adamw', 'base_learning_rate': 0.0005},
      {'optimizer': 'sgd', 'base_learning_rate': 0.05},
      {'optimizer': 'sgd', 'base_learning_rate': 2.0, 'batch_size': 128},
      # Few images, and no statistics of them.
      {'batch_size': 16, 'encoder_norm': 'group_ws',
       'projector_norm': 'layer', 'predictor_norm': 'none'},
      # Nothing undoes the start but negatives.
      {'encoder_norm': 'layer', 'projector_norm': 'none', 'beta': 1.0})
  def test_none_for_what_does_not_collapse(self, **fields):
    config = _config(fields)
    self.assertEqual(collapse.likely_causes(config), [])
    (where_to_look,) = collapse.causes_or_where_to_look(config)
    for words in ('None of the settings', 'learning rate', 'normalises',
                  'augmentations'):
      self.assertIn(words, where_to_look)

  def test_none_for_the_quickstart(self):
    self.assertEqual(
        collapse.likely_causes(quickstart.get_config()), [])

  @parameterized.parameters(
      ({'predictor.depth': 0}, 'without a predictor'),
      ({'predictor.depth': 0, 'beta': 0.01}, 'without a predictor'),
      ({'predictor_learning_rate_multiplier': 0.0}, 'never learns'),
      ({'target': 'online'}, 'config.target=online'),
      ({'target': 'stop_gradient'}, 'config.target=stop_gradient: the target'),
      ({'base_tau': 0.0, 'tau_schedule': 'constant'}, 'config.base_tau=0:'),
      ({'encoder_norm': 'none', 'projector_norm': 'none'}, 'affine_init'),
      ({'encoder_norm': 'none', 'projector.depth': 1}, 'affine_init'),
      ({'encoder_norm': 'layer', 'projector_norm': 'layer'},
       'encoder_norm=layer and config.projector_norm=layer: neither takes'),
      ({'encoder_norm': 'none', 'projector_norm': 'instance'}, 'neither takes'),
      ({'exclude_bias_and_norm': False}, 'exclude_bias_and_norm=False'),
      # LARS's rate with the others, and theirs with LARS.
      ({'optimizer': 'adamw'}, 'a peak of 3.2'),
      ({'optimizer': 'adamw', 'base_learning_rate': 0.03, 'batch_size': 128},
       'optimizer is adamw: try 0.0005'),
      ({'optimizer': 'sgd'}, 'optimizer is sgd: try 0.05'),
      ({'base_learning_rate': 0.001}, "AdamW's scale"),
      ({'base_learning_rate': 10.0}, '16 % of its norm'),
      ({'weight_decay': 0.0}, 'weight_decay=0'),
      ({'batch_size': 32}, '32 images'),
      ({'accumulation_steps': 128}, '32 images'))
  def test_names_what_is_known_to_collapse(self, fields, words):
    (cause,) = collapse.likely_causes(_config(fields))
    self.assertIn(words, cause)

  def test_local_statistics_are_of_a_devices_share(self):
    config = _config({'projector_norm': 'batch_local', 'batch_size': 256})
    self.assertEqual(collapse.likely_causes(config, num_devices=4), [])
    config.accumulation_steps = 2
    (cause,) = collapse.likely_causes(config, num_devices=4)
    self.assertIn("each device's statistics come from 32 images", cause)
    config.projector_norm = 'batch'
    self.assertEqual(collapse.likely_causes(config, num_devices=4), [])

  def test_a_weak_cause_is_not_all_there_is_to_look_at(self):
    small, where_to_look = collapse.causes_or_where_to_look(
        _config({'batch_size': 32}))
    self.assertIn('32 images', small)
    self.assertStartsWith(where_to_look, 'This alone rarely does it: look at')
    causes = collapse.causes_or_where_to_look(
        _config({'batch_size': 32, 'predictor.depth': 0}))
    self.assertLen(causes, 2)
    self.assertNotIn('look at', ''.join(causes))

  def test_masks_are_those_of_lars(self):
    config = _config({
        'optimizer': 'sgd', 'base_learning_rate': 0.05,
        'exclude_bias_and_norm': False})
    self.assertEqual(collapse.likely_causes(config), [])


class VerdictTest(absltest.TestCase):

  def test_collapsed(self):
    text = collapse.verdict(
        {'train/projection_std': 0.01, 'train/embedding_std': 0.5},
        _config({'predictor.depth': 0}))
    self.assertStartsWith(text, 'collapsed: projections are collapsing')
    self.assertIn('config.predictor.depth=0', text)
    self.assertNotIn('embeddings', text)
    self.assertNotIn('\n', text)

  def test_few_directions(self):
    text = collapse.verdict(
        {'train/projection_std': 0.7, 'diagnostics/projection_rank': 2.6},
        _config({'encoder_norm': 'batch_local', 'batch_size': 128}),
        num_devices=4)
    self.assertStartsWith(
        text, 'few directions, and no collapse to a point: projections use')
    self.assertIn('32 images', text)

  def test_healthy(self):
    self.assertEqual(
        collapse.verdict({
            'train/projection_std': 0.81, 'diagnostics/embedding_rank': 40.26,
            'train/loss': 1.0}, _config({'predictor.depth': 0})),
        'no sign of collapse: train/projection_std 0.81, '
        'diagnostics/embedding_rank 40.3')


def _config(fields):
  config = config_lib.get_base_config()
  for name, value in fields.items():
    config_lib.set_field(config, name, value)
  return config


if __name__ == '__main__':
  absltest.main()

"""Runs side by side: which are one row, what a row says, what outlives it."""

import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
from matplotlib import image

from byol_jax import config as config_lib
from byol_jax.evaluation import comparison
from byol_jax.evaluation import comparison_page

_HEALTHY = {
    'train/projection_std': 0.9, 'diagnostics/embedding_rank': 40.0,
    'diagnostics/projection_rank': 60.0, 'perf/seconds': 90.0}
_NAN = (
    'error: train/loss became NaN or infinite in step 77; there is no '
    'checkpoint yet')


def _result(linear=50.0, knn=40.0, **more):
  return {
      'linear_top1': linear, 'random_init_linear_top1': 38.0,
      'knn_top1': knn, 'random_init_knn_top1': 32.0,
      'images_per_second': 1000.0, 'seconds': 120.0} | more


def _write_run(
    root, directory, *, result=None, last=None, failed='', fields=None,
    **config_fields):
  """One workdir; `config_fields` with __ for dots."""
  workdir = pathlib.Path(root) / directory
  workdir.mkdir()
  if fields is None:
    config = config_lib.get_base_config()
    for name, value in config_fields.items():
      config_lib.set_field(config, name.replace('__', '.'), value)
    fields = config_lib.to_dict(config)
  if fields:
    (workdir / 'config.json').write_text(json.dumps(fields))
  if last is not None:
    (workdir / 'metrics.jsonl').write_text(
        json.dumps({'step': 50, 'train/loss': 2.0}) + '\n'
        + json.dumps({'step': 100} | last) + '\n')
  if result is not None:
    (workdir / 'result.json').write_text(json.dumps(result))
  if failed:
    (workdir / 'failed.txt').write_text(failed + '\n')


class ComparisonTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = self.enter_context(tempfile.TemporaryDirectory())

  def _rows(self, *first):
    return {
        row['name']: row
        for row in comparison.compare(self.root, first=first)['rows']}

  def _page(self, *first):
    return comparison_page.render(
        comparison.compare(self.root, first=first), 'ablations')

  def test_seeds_are_one_row_with_mean_and_spread(self):
    for seed, linear in enumerate((50.0, 51.0, 54.0)):
      _write_run(
          self.root, f'byol-{seed}', name='byol', seed=seed,
          result=_result(linear), last=_HEALTHY)
    row = self._rows()['byol']
    self.assertEqual([run['seed'] for run in row['runs']], [0, 1, 2])
    # sqrt((5/3)^2 + (2/3)^2 + (7/3)^2) / sqrt(2), by hand.
    self.assertEqual(row['figures']['linear_top1'], {
        'mean': 51.667, 'spread': 2.082, 'count': 3})
    self.assertEqual(row['figures']['gain_linear_top1']['mean'], 13.667)
    self.assertEqual(row['figures']['gain_knn_top1'], {
        'mean': 8.0, 'spread': 0.0, 'count': 3})
    self.assertIn('| 51.7 ± 2.1 | 38.0 ± 0.0 | +13.7 ± 2.1 |', self._page())

  def test_one_run_has_no_spread(self):
    _write_run(self.root, 'a', name='a', result=_result(), last=_HEALTHY)
    row = self._rows()['a']
    self.assertIsNone(row['figures']['linear_top1']['spread'])
    self.assertEqual(row['figures']['embedding_rank']['mean'], 40.0)
    self.assertNotIn('±', self._page())

  def test_rows_without_a_name_take_their_directory(self):
    for directory in ('mine-0', 'mine-1', 'other'):
      _write_run(
          self.root, directory, seed=int(directory == 'mine-1'),
          result=_result())
    rows = self._rows()
    self.assertCountEqual(rows, ['mine', 'other'])
    self.assertLen(rows['mine']['runs'], 2)

  def test_one_name_for_different_settings_is_two_rows(self):
    _write_run(self.root, 'a-0', name='a', result=_result(50.0))
    _write_run(
        self.root, 'a-1', name='a', seed=1, num_epochs=3,
        result=_result(20.0))
    rows = self._rows()
    self.assertCountEqual(rows, ['a', 'a (a-1)'])
    self.assertEqual(rows['a (a-1)']['differs'], {'num_epochs': 3})

  def test_order_and_differences_from_the_first_row(self):
    _write_run(self.root, 'a-0', name='a', base_tau=0.5, result=_result())
    _write_run(self.root, 'byol-0', name='byol', result=_result())
    _write_run(
        self.root, 'c-0', name='c', beta=1.0, seed=3, published='70.9 (T. 5)',
        data_dir='/elsewhere', result=_result())
    found = comparison.compare(self.root, first=('byol', 'absent', 'c'))
    self.assertEqual(
        [(row['name'], row['differs']) for row in found['rows']],
        [('byol', {}), ('c', {'beta': 1.0}), ('a', {'base_tau': 0.5})])
    self.assertEqual(found['baseline'], 'byol')
    self.assertEqual(found['common']['batch_size'], 4096)
    for name in ('beta', 'base_tau', 'seed', 'published', 'data_dir'):
      self.assertNotIn(name, found['common'])

  @parameterized.named_parameters(
      ('as_the_result_says', {'collapsed': True, 'signs': ['x']}, None, 'yes'),
      ('not_as_the_result_says', {'collapsed': False, 'signs': []}, None,
       'no'),
      # Where its metrics are there, by today's rule.
      ('few_directions', {'collapsed': True, 'signs': ['x']},
       _HEALTHY | {'diagnostics/projection_rank': 2.6}, 'few directions'),
      ('by_its_metrics', {'collapsed': False, 'signs': []},
       {'train/projection_std': 0.0}, 'yes'),
      ('not_by_its_metrics', {}, _HEALTHY, 'no'))
  def test_collapsed(self, result, last, expected):
    _write_run(self.root, 'a', result=_result(**result), last=last)
    self.assertEqual(
        comparison.describe_outcome(self._rows()['a']), expected)

  def test_few_directions_are_no_collapse(self):
    few = _HEALTHY | {'diagnostics/projection_rank': 2.6}
    for seed, last in enumerate((few, _HEALTHY, few)):
      _write_run(self.root, f'a-{seed}', seed=seed, result=_result(), last=last)
    _write_run(
        self.root, 'a-3', seed=3, result=_result(),
        last={'diagnostics/embedding_std': 0.0})
    row = self._rows()['a']
    self.assertEqual(
        [run['collapsed'] for run in row['runs']], [False, False, False, True])
    self.assertEqual(
        comparison.describe_outcome(row), '1 of 4; few directions: 2 of 4')
    page = self._page()
    self.assertIn('Few directions: projections use fewer than 3', page)
    self.assertIn('- a-0: projections use fewer than 3 directions', page)

  def test_signs_of_collapse_are_listed(self):
    _write_run(self.root, 'a-0', result=_result(
        collapsed=True, signs=['rank is low', 'std is low']))
    _write_run(self.root, 'b-0', beta=1.0, result=_result(collapsed=False))
    self.assertIn(
        'Signs of collapse:\n\n- a-0: rank is low; std is low\n', self._page())

  def test_some_seeds_collapsed_and_one_is_unfinished(self):
    for seed, collapsed in enumerate((True, False)):
      _write_run(
          self.root, f'a-{seed}', seed=seed,
          result=_result(collapsed=collapsed))
    _write_run(self.root, 'a-2', seed=2, last={'perf/seconds': 7.0})
    row = self._rows()['a']
    self.assertEqual(
        comparison.describe_outcome(row),
        '1 of 2; unfinished, at step 100 (seed 2)')
    self.assertEqual(row['figures']['linear_top1']['count'], 2)
    self.assertIn('| 2 of 3 |', self._page())

  @parameterized.named_parameters(
      ('reason', _NAN, {'train/loss': 'nan'}, 'diverged at step 77'),
      ('no_reason', '', {'train/loss': 'nan'}, 'diverged at step 100'),
      ('another_reason', 'error: config.norm_groups is 3,\n expected 2', None,
       'failed: config.norm_groups is 3, expected 2'),
      ('a_long_one', 'error: ' + 60 * 'x' + ' ' + 60 * 'y', None,
       'failed: ' + 60 * 'x' + ' ...'))
  def test_runs_without_a_result(self, failed, last, expected):
    _write_run(self.root, 'a', failed=failed, last=last)
    row = self._rows()['a']
    self.assertEqual(comparison.describe_outcome(row), expected)
    self.assertNotIn('linear_top1', row['figures'])
    self.assertNotIn('embedding_rank', row['figures'])

  def test_a_diverged_run_tells_why_and_a_result_outlives_a_failure(self):
    _write_run(self.root, 'a-0', failed=_NAN, last={'train/loss': 'inf'})
    _write_run(self.root, 'b-0', failed=_NAN, result=_result())
    page = self._page()
    self.assertIn('- a-0: train/loss became NaN', page)
    self.assertNotIn('- b-0', page)

  def test_failing_before_the_config_joins_the_row_of_its_name(self):
    _write_run(self.root, 'a-0', fields={}, failed='error: no data')
    _write_run(self.root, 'a-1', name='a', seed=1, result=_result())
    _write_run(self.root, 'b-0', fields={}, failed='error: no data')
    found = comparison.compare(self.root, first=('b', 'a'))
    self.assertEqual(
        [(row['name'], len(row['runs']), row['differs'])
         for row in found['rows']], [('b', 1, {}), ('a', 2, {})])
    self.assertEqual(found['baseline'], 'a')

  def test_page_says_what_its_figures_are(self):
    _write_run(
        self.root, 'a-0', name='a', published='72.5 (Table 5b, it | says)',
        result=_result(), last=_HEALTHY)
    found = comparison.compare(
        self.root, command='./launch/ablations.sh --seeds=0')
    page = comparison_page.render(
        found, 'my_grid', findings='## Found\n\nA fault.\n', picture='p.png')
    for words in (
        '# My grid', '`./launch/ablations.sh --seeds=0`',
        '## Found\n\nA fault.\n\n![Accuracy of each row](p.png)',
        '[my_grid.json](my_grid.json)', 'Data: tfds:imagenet2012, views of 224',
        '1000 epochs, 100 steps of 4096 images', '1, seeds 0, 2 minutes',
        '| no | 72.5 | 2.0 |', '- a: 72.5 (Table 5b, it | says)'):
      self.assertIn(words, page)

  @parameterized.parameters(
      ({'encoder_norm': 'none', 'projector_norm': 'none',
        'predictor_norm': 'none'}, '*_norm=none'),
      ({'encoder_norm': 'none', 'projector_norm': 'none'},
       'encoder_norm=none, projector_norm=none'),
      ({'augment.view1.flip_prob': 0.0, 'augment.view2.flip_prob': 0.0,
        'beta': 1.0}, 'augment.view*.flip_prob=0.0, beta=1.0'),
      ({'augment.view1.flip_prob': 0.0, 'augment.view2.flip_prob': 0.1},
       'augment.view1.flip_prob=0.0, augment.view2.flip_prob=0.1'))
  def test_short_differences(self, differs, expected):
    self.assertEqual(
        comparison_page.describe_differences(differs), expected)

  def test_page_and_figure_come_from_the_json_alone(self):
    _write_run(self.root, 'a-0', result=_result(knn=80.0), last=_HEALTHY)
    _write_run(self.root, 'a-1', seed=1, result=_result(knn=82.0))
    _write_run(self.root, 'b-0', beta=1.0, result=_result(collapsed=True))
    _write_run(self.root, 'c-0', beta=0.5, failed=_NAN)
    with tempfile.TemporaryDirectory() as directory:
      output = pathlib.Path(directory) / 'grid'
      comparison.write(comparison.compare(self.root), f'{output}.json')
      pathlib.Path(f'{output}_findings.md').write_text('In our words.\n')
      page, picture = comparison_page.write(output)
      first = page.read_text(), picture.read_bytes()
      page.unlink()
      picture.unlink()
      self.assertEqual(comparison_page.write(output), [page, picture])
      self.assertEqual((page.read_text(), picture.read_bytes()), first)
      self.assertIn('In our words.', first[0])
      self.assertIn('![Accuracy of each row](grid.png)', first[0])
      pixels = image.imread(picture)
    self.assertEqual(pixels.shape[1], 1800)
    # Trained (blue), collapsed (vermilion): Okabe and Ito's; in both panels.
    for color in ((0, 114, 178), (213, 94, 0)):
      near = abs(255 * pixels[..., :3] - color).max(-1) < 1
      for panel in (near[:-200, 200:950], near[:-200, 1050:]):
        self.assertGreater(panel.sum(), 100)

  def test_no_figure_without_accuracies(self):
    _write_run(self.root, 'a-0', last=_HEALTHY)
    with tempfile.TemporaryDirectory() as directory:
      comparison.write(comparison.compare(self.root), f'{directory}/a.json')
      (page,) = comparison_page.write(f'{directory}/a')
      self.assertNotIn('.png', page.read_text())

  def test_slips(self):
    (pathlib.Path(self.root) / 'empty').mkdir()
    with self.assertRaisesRegex(
        config_lib.ConfigError, f'no runs in {self.root}'):
      comparison.compare(self.root)
    with self.assertRaisesRegex(config_lib.ConfigError, 'give --runs=DIR'):
      comparison.read(f'{self.root}/none.json')
    _write_run(self.root, 'cut', result=_result())
    (pathlib.Path(self.root) / 'cut' / 'result.json').write_text('{"a"')
    with self.assertRaisesRegex(
        config_lib.ConfigError, 'result.json is not JSON'):
      comparison.compare(self.root)


if __name__ == '__main__':
  absltest.main()

"""The report: it stands alone, and leaves out what a run does not have."""

import json
import pathlib
import re
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from byol_jax import config as config_lib
from byol_jax.evaluation import advice
from byol_jax.evaluation import gallery
from byol_jax.evaluation import history
from byol_jax.evaluation import page
from byol_jax.evaluation import report

_SECTIONS = (
    'Health', 'Probes', 'Curves', 'Directions', 'Views', 'Nearest neighbours',
    'Throughput', 'Configuration')


def _record(protocol, random_init, top1, k=200):
  settings = {'k': k, 'temperature': 0.1} if protocol == 'knn' else {
      'num_epochs': 80, 'batch_size': 1024, 'features': 'augmented'}
  description = f'kNN, k={k}, temperature=0.1' if protocol == 'knn' else (
      'linear, 80 epochs, batch 1024, base learning rate 0.2, augmented '
      'features')
  return {
      'protocol': protocol, 'random_init': random_init, 'settings': settings,
      'description': description, 'headline': f'{protocol}/test_top1',
      'valid_split': '',
      'metrics': {f'{protocol}/test_top1': top1,
                  f'{protocol}/test_top5': top1 + 0.1,
                  'linear/base_learning_rate': 0.2},
      'data': 'tfds:imagenet2012', 'train_split': 'train',
      'test_split': 'validation', 'encoder': 'resnet50',
      'num_train_examples': 50, 'num_test_examples': 10, 'image_size': 224,
      'test_crop_ratio': 0.875, 'step': 0 if random_init else 200}


def _rows(last=None):
  for step in range(20, 201, 20):
    yield {
        'step': step, 'train/loss': 4 - step / 100, 'train/tau': 0.99,
        'train/learning_rate': 0.1, 'train/embedding_std': 0.6,
        'train/projection_std': 0.9, 'perf/images_per_second': 100.0 + step,
        'perf/seconds': step / 2.0} | ((last or {}) if step == 200 else {})
  yield {'step': 200, 'knn/test_top1': 0.4, 'diagnostics/embedding_rank': 40.0,
         'online_probe/test_top1': 0.3}


def _gallery(labelled=True):
  rng = np.random.default_rng(0)
  return gallery.Gallery(
      query=rng.integers(0, 255, (3, 8, 8, 3), np.uint8),
      neighbor=rng.integers(0, 255, (3, 2, 8, 8, 3), np.uint8),
      cosine=rng.uniform(size=(3, 2)).astype(np.float32),
      query_label=np.array([0, 1, 2]) if labelled else None,
      neighbor_label=np.array([[0, 1], [1, 1], [0, 0]]) if labelled else None,
      class_names=('cat', '<dog>', 'bird') if labelled else ())


def _distributions():
  """Three evaluations; the shares of the last are told apart by 0.7."""
  for step, share in ((50, 0.5), (100, 0.6), (200, 0.7)):
    yield {'step': step} | {
        f'pairs/{output}_{kind}': [share, 1 - share]
        for output in ('embedding', 'projection')
        for kind in ('positive_cosines', 'different_cosines', 'spectrum')}


def _workdir(
    *, rows=(), records=(), pictures=None, views=False, distributions=()):
  workdir = pathlib.Path(tempfile.mkdtemp())
  (workdir / 'config.json').write_text(json.dumps(
      config_lib.to_dict(config_lib.get_base_config())))
  if rows:
    (workdir / 'metrics.jsonl').write_text(
        ''.join(json.dumps(row) + '\n' for row in rows))
  if distributions:
    (workdir / 'distributions.jsonl').write_text(
        ''.join(json.dumps(row) + '\n' for row in distributions))
  (workdir / 'evaluations').mkdir()
  for n, record in enumerate(records):
    (workdir / 'evaluations' / f'{n}.json').write_text(json.dumps(record))
  if pictures:
    pictures.write(workdir)
  if views:
    (workdir / 'views.png').write_bytes(
        page.encode_png(np.zeros((9, 9, 3), np.uint8)))
  return workdir


def _write(**contents):
  return report.write_report(_workdir(**contents)).read_text()


def _headings(text):
  return re.findall(r'<h2>(.*?)</h2>', text)


class ReportTest(parameterized.TestCase):

  def test_whole_run(self):
    text = _write(
        rows=list(_rows()), views=True, pictures=_gallery(),
        records=[_record('knn', False, 0.5), _record('knn', True, 0.25),
                 _record('linear', False, 0.6), _record('linear', True, 0.7)])
    self.assertCountEqual(
        _headings(text), [s for s in _SECTIONS if s != 'Health'] + [
            'What to try next'])
    for words in (
        'k=200, temperature=0.1', '80 epochs', '+25.00', '-10.00', '50.00',
        'class="same"', 'class="other"', '&lt;dog&gt;', 'imagenet2012',
        'Pretraining did not help in linear'):
      self.assertIn(words, text)

  def test_directions(self):
    rows = list(_rows(last={
        'train/prediction_std': 0.5, 'train/target_distance': 0.1,
        'diagnostics/prediction_rank': 9.0,
        'pairs/embedding_alignment': 0.3, 'pairs/projection_alignment': 0.4,
        'pairs/embedding_uniformity': -1.0, 'pairs/projection_uniformity': -2.0,
        'pairs/positive_cosine': 0.8, 'pairs/different_cosine': 0.25,
        'pairs/target_cosine': 0.75}))
    text = _write(rows=rows, distributions=list(_distributions()))
    text = text[text.index('<h2>Directions'):]
    titles = re.findall(r'<figcaption>(.*?)</figcaption>', text)
    self.assertEqual(titles, [
        'Spread of directions', 'Effective rank', 'Alignment', 'Uniformity',
        'Mean cosines', 'Distance of the target from the online network',
        'Cosines of the projection', 'Cosines of the embedding',
        'Spectrum of the projection', 'Spectrum of the embedding'])
    figures = dict(zip(titles, re.findall(
        r'<figure>.*?</figure>', text, re.DOTALL), strict=True))
    self.assertEqual(
        figures['Spread of directions'].count('<polyline'), 3)
    cosines = figures['Cosines of the projection']
    self.assertIn('two views of an image, step 200', cosines)
    self.assertNotIn('step 50', cosines)
    spectrum = figures['Spectrum of the projection']
    self.assertIn('step 50', spectrum)
    self.assertIn('step 200', spectrum)
    self.assertNotIn('step 100', spectrum)

  def test_stands_alone(self):
    text = _write(
        rows=list(_rows()), views=True, pictures=_gallery(),
        records=[_record('knn', False, 0.5)])
    self.assertNotIn('http', text)
    self.assertNotIn('<script', text)
    self.assertNotIn('<link', text)
    for source in re.findall(r'(?:src|href)="([^"]*)"', text):
      self.assertStartsWith(source, 'data:image/png;base64,')
    self.assertNotIn('url(', text)

  def test_without_labels(self):
    rows = [{k: v for k, v in row.items() if 'top1' not in k}
            for row in _rows()]
    text = _write(rows=rows, pictures=_gallery(labelled=False))
    self.assertCountEqual(_headings(text), [
        'Health', 'Curves', 'Directions', 'Nearest neighbours', 'Throughput',
        'Configuration'])
    self.assertNotIn('class="same"', text)

  def test_other_settings_are_not_set_side_by_side(self):
    text = _write(rows=list(_rows()), records=[
        _record('knn', False, 0.5, k=20), _record('knn', True, 0.6)])
    self.assertIn('k=20,', text)
    self.assertIn('k=200,', text)
    self.assertNotIn('+', text[text.index('<h2>Probes'):text.index(
        '<h2>Curves')])
    self.assertNotIn('did not help', text)

  def test_run_that_has_just_begun(self):
    self.assertEqual(_headings(_write()), ['Configuration'])

  def test_config_differences_come_first(self):
    workdir = _workdir()
    fields = json.loads((workdir / 'config.json').read_text())
    fields['base_tau'] = 0.5
    (workdir / 'config.json').write_text(json.dumps(fields))
    text = report.write_report(workdir).read_text()
    table = text[text.index('Configuration'):text.index('<details>')]
    self.assertIn('base_tau', table)
    self.assertNotIn('weight_decay', table)
    self.assertIn('weight_decay', text)

  def test_no_run(self):
    with self.assertRaisesRegex(config_lib.ConfigError, 'no config.json in'):
      report.write_report(tempfile.mkdtemp())


class AdviceTest(parameterized.TestCase):

  def _suggest(self, rows, records=(), **fields):
    config = config_lib.get_base_config()
    for name, value in fields.items():
      config_lib.set_field(config, name, value)
    curves = history.read_curves(_workdir(rows=rows))
    return ' '.join(advice.suggest(config, curves, list(records)))

  def test_healthy_run(self):
    self.assertEqual(self._suggest(list(_rows()), [
        _record('knn', False, 0.5), _record('knn', True, 0.25)]), '')

  def test_collapse_comes_with_its_causes(self):
    rows = list(_rows(last={'train/projection_std': 0.01}))
    text = self._suggest(rows, target='stop_gradient')
    self.assertIn('projections are collapsing', text)
    self.assertIn('config.target=ema', text)

  def test_collapse_without_a_known_cause(self):
    rows = list(_rows(last={'train/projection_std': 0.01}))
    self.assertIn('None of the settings known', self._suggest(rows))

  def test_not_finite(self):
    rows = list(_rows(last={'train/loss': 'nan'}))
    self.assertIn('train/loss became NaN', self._suggest(rows))

  def test_loss_that_does_not_fall(self):
    rows = [{'step': s, 'train/loss': 4.0} for s in range(1, 9)]
    self.assertIn('hardly moved', self._suggest(rows))

  def test_past_its_best(self):
    rows = [{'step': s, 'knn/test_top1': v}
            for s, v in ((10, 0.3), (20, 0.5), (30, 0.4))]
    self.assertIn('best at step 20 (50.0 %)', self._suggest(rows))


class HistoryTest(absltest.TestCase):

  def test_reads_back(self):
    workdir = _workdir(rows=[{'step': 1, 'a': 2}, {'step': 3, 'a': 'inf'}])
    with (workdir / 'metrics.jsonl').open('a') as file:
      file.write('{"step": 5, "a')  # killed while writing
    self.assertEqual(
        history.read_curves(workdir), {'a': ([1, 3], [2.0, float('inf')])})

  def test_distributions(self):
    rows = [{'step': 1, 'a': [0.5, 'nan']}, {'step': 2, 'a': [1, 0]}]
    steps, frames = history.read_distributions(
        _workdir(distributions=rows))['a']
    self.assertEqual(steps, [1, 2])
    np.testing.assert_array_equal(frames, [[0.5, np.nan], [1.0, 0.0]])

  def test_no_file(self):
    self.assertEqual(history.read_curves(tempfile.mkdtemp()), {})
    self.assertEqual(history.read_distributions(tempfile.mkdtemp()), {})


class GalleryTest(parameterized.TestCase):

  @parameterized.parameters(True, False)
  def test_round_trip(self, labelled):
    workdir = tempfile.mkdtemp()
    made = _gallery(labelled)
    made.write(workdir)
    found = gallery.read(workdir)
    self.assertEqual(found.class_names, made.class_names)
    for name in ('query', 'neighbor', 'cosine', 'query_label',
                 'neighbor_label'):
      np.testing.assert_array_equal(getattr(found, name), getattr(made, name))

  def test_none(self):
    self.assertIsNone(gallery.read(tempfile.mkdtemp()))


if __name__ == '__main__':
  absltest.main()

"""The end of a run on tiny data: records, result, pictures, report."""

import json
import os
import pathlib
import tempfile
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import config as config_lib
from byol_jax.evaluation import features
from byol_jax.evaluation import final
from byol_jax.evaluation import gallery
from byol_jax.evaluation import linear
from byol_jax.evaluation import neighbors
from byol_jax.evaluation import periodic
from byol_jax.evaluation import records
from byol_jax.evaluation import subject
from byol_jax.networks import network as network_lib
from byol_jax.training import optimizers
from byol_jax.training import state as state_lib


class _Colors(nn.Module):
  """Mean colours of the four quarters, through a dense layer."""

  @nn.compact
  def __call__(self, x):
    x = x.reshape(len(x), 2, 4, 2, 4, 3).mean(axis=(2, 4))
    return nn.Dense(16)(x.reshape(len(x), -1))


def _config(**fields):
  config = config_lib.get_base_config()
  fields = {
      'data': 'fake:96', 'test_split': 'test', 'image_size': 8,
      'test_crop_ratio': 1.0, 'evaluate_batch_size': 40, 'batch_size': 16,
      'projector.hidden_size': 8, 'projector.output_size': 8,
      'predictor.hidden_size': 8, 'knn.k': 5, 'knn.max_train_examples': 64,
      'linear.num_epochs': 3, 'linear.batch_size': 32,
      'linear.augment': False} | fields
  for name, value in fields.items():
    config_lib.set_field(config, name, value)
  return config


def _write_arrays(labelled):
  path = pathlib.Path(tempfile.mkdtemp()) / 'some images.npz'
  rng = np.random.default_rng(0)
  columns = {
      f'{split}_image': rng.integers(0, 255, (count, 8, 8, 3), np.uint8)
      for split, count in (('train', 40), ('test', 12))}
  if labelled:
    columns |= {'train_label': np.arange(40) % 3, 'test_label': np.arange(12)
                % 3}
  np.savez(path, **columns)
  return f'arrays:{path}'


def _set_up(config):
  sources = subject.open_sources(config)
  network = network_lib.create_network(
      config, sources.train.num_classes, _Colors())
  tx = optimizers.create_optimizer(config, lambda _: 0.0)
  rng = np.random.default_rng(0)
  # Without compiling an initialisation.
  state = jax.tree.map(
      lambda x: jnp.asarray(1 + 0.5 * rng.normal(size=x.shape), x.dtype),
      jax.eval_shape(
          lambda: state_lib.create_train_state(network, tx, config)))
  return sources, network, state.replace(step=jnp.int32(0))


def _finish(config):
  workdir = pathlib.Path(tempfile.mkdtemp())
  (workdir / 'config.json').write_text(json.dumps(config_lib.to_dict(config)))
  (workdir / 'metrics.jsonl').write_text(''.join(
      json.dumps({'step': step, 'perf/images_per_second': rate,
                  'perf/seconds': step / 2}) + '\n'
      for step, rate in ((1, 5.0), (2, 100.0), (3, 90.0))))
  sources, network, state = _set_up(config)
  final.evaluate_and_report(
      config, network, state, state, sources,
      final.choose_protocols(config, sources), str(workdir), time.monotonic())
  return workdir


class FinalTest(parameterized.TestCase):

  def test_both_protocols_for_both_encoders(self):
    workdir = _finish(_config(final_protocols=('knn', 'linear')))
    result = json.loads((workdir / 'result.json').read_text())
    self.assertEqual(result['images_per_second'], 90)
    self.assertGreater(result['seconds'], 0)
    for protocol in ('knn', 'linear'):
      self.assertEqual(
          result[f'{protocol}_top1'], result[f'random_init_{protocol}_top1'])
      self.assertBetween(result[f'{protocol}_top1'], 1, 100)  # percent
    self.assertCountEqual(
        [path.name for path in (workdir / 'evaluations').iterdir()],
        ['knn-fake-96.json', 'knn-fake-96-random_init.json',
         'linear-fake-96.json', 'linear-fake-96-random_init.json',
         'table.md'])
    by_protocol = {
        r['protocol']: r for r in records.read_all(workdir)
        if not r['random_init']}
    self.assertEqual(
        by_protocol['knn']['settings'], {'k': 5, 'temperature': 0.1})
    self.assertEqual(by_protocol['linear']['settings']['num_epochs'], 3)
    self.assertEqual(by_protocol['knn']['num_train_examples'], 96)
    self.assertEqual(by_protocol['knn']['test_split'], 'test')
    self.assertEqual(by_protocol['knn']['embedding_size'], 16)
    text = (workdir / 'report.html').read_text()
    self.assertIn('Nearest neighbours', text)
    self.assertIn('Probes', text)

  def test_result_says_whether_it_collapsed(self):
    workdir = pathlib.Path(tempfile.mkdtemp())
    for row in (
        {'step': 1, 'train/projection_std': 0.01,
         'diagnostics/projection_rank': 30.123, 'train/embedding_std': 0.01},
        {'step': 2, 'train/projection_std': 0.9}):
      with (workdir / 'metrics.jsonl').open('a') as file:
        file.write(json.dumps(row) + '\n')
    result = final.create_result([], workdir, 1.0)
    (sign,) = result['signs']
    # The last value of each counts.
    self.assertIn('train/embedding_std', sign)
    self.assertEqual(result, {
        'collapsed': True, 'signs': [sign], 'projection_rank': 30.12,
        'seconds': 1.0})

  def test_without_labels(self):
    config = _config(
        data=_write_arrays(False), final_protocols=('knn', 'linear'))
    workdir = _finish(config)
    self.assertEqual(
        set(json.loads((workdir / 'result.json').read_text())),
        {'images_per_second', 'seconds'})
    found = gallery.read(workdir)
    self.assertEqual(found.query.shape, (8, 8, 8, 3))
    self.assertIsNone(found.query_label)

  def test_without_a_test_split(self):
    workdir = _finish(_config(test_split='', final_protocols=('knn',)))
    self.assertFalse((workdir / 'evaluations').exists())
    found = gallery.read(workdir)
    for q, query in enumerate(found.query):
      for picture in found.neighbor[q]:
        self.assertFalse(np.array_equal(query, picture))


class AugmentedLinearTest(absltest.TestCase):

  def test_chooses_a_rate_on_held_out_images(self):
    config = _config(**{
        'linear.augment': True, 'linear.base_learning_rates': (1e-6, 0.5),
        'linear.held_out_share': 0.25})
    sources, network, state = _set_up(config)
    evaluator = final.FinalEvaluator(config, network, sources, ['linear'])
    with mock.patch.object(linear, 'choose', wraps=linear.choose) as choose:
      (record,), found = evaluator.run(
          features.online_variables(state), step=0, random_init=True)
    _, valid = choose.call_args.args
    self.assertLen(valid.index, 24)
    np.testing.assert_array_equal(
        valid.embedding, found.splits.train.embedding[valid.index])
    # The first one's head is right about none of them, this one's about five.
    self.assertEqual(record['metrics']['linear/base_learning_rate'], 0.5)
    self.assertEqual(record['settings']['features'], 'augmented')
    self.assertLen(found.splits.train.index, 96)
    # The state has not been donated away.
    self.assertEqual(int(jax.device_get(state.step)), 0)
    jax.tree.map(np.asarray, state.online_params)


class ErrorsTest(parameterized.TestCase):

  @parameterized.parameters(
      ({}, ['fewshot'],
       "unknown protocol 'fewshot', expected all, or some of knn, linear"),
      ({'test_split': ''}, ['knn'], 'test_split is empty'),
      ({'linear.augment': True, 'linear.batch_size': 30}, ['linear'],
       'multiple of 4 devices'),
      ({'linear.augment': True, 'linear.batch_size': 128}, ['linear'],
       'at most the 96 images'),
      ({'linear.base_learning_rates': (0.1, 0.2), 'linear.held_out_share': 0.0},
       ['linear'], 'held_out_share'),
      ({'linear.held_out_share': 1.0}, ['knn', 'linear'], 'expected in'))
  def test_one_line_before_any_compile(self, fields, names, message):
    config = _config(**fields)
    sources = subject.open_sources(config)
    with self.assertRaisesRegex(config_lib.ConfigError, message) as raised:
      final.FinalEvaluator(config, None, sources, names)
    self.assertNotIn('\n', str(raised.exception))

  def test_no_labels(self):
    config = _config(data=_write_arrays(False))
    sources = subject.open_sources(config)
    with self.assertRaisesRegex(
        config_lib.ConfigError, "linear needs labels, .* split 'train'"):
      final.FinalEvaluator(config, None, sources, ['linear'])

  def test_of_images_without_labels_what_remains(self):
    """Said at the start of a run, instead of ending it."""
    config = _config(
        data=_write_arrays(False), final_protocols=('knn', 'linear'))
    with self.assertLogs('absl', 'INFO') as logs:
      names = final.choose_protocols(config, subject.open_sources(config))
    self.assertEqual(list(names), [])
    self.assertIn('linear is left out: linear needs labels', logs.output[1])

  def test_of_labelled_images_nothing_is_left_out(self):
    config = _config(final_protocols=('knn', 'depth'))
    with self.assertRaisesRegex(config_lib.ConfigError, 'needs depth maps'):
      final.choose_protocols(config, subject.open_sources(config))


_WITHOUT_LABELS = {
    f'diagnostics/{output}_{figure}'
    for output in ('embedding', 'projection', 'prediction')
    for figure in ('rank', 'std')} | {
        f'pairs/{output}_{figure}'
        for output in ('embedding', 'projection')
        for figure in ('alignment', 'uniformity', 'positive_cosines',
                       'different_cosines', 'spectrum')} | {
            f'pairs/{pair}_cosine'
            for pair in ('positive', 'different', 'target')}


class PeriodicTest(absltest.TestCase):

  def test_labelled(self):
    config = _config()
    sources, network, state = _set_up(config)
    evaluator = periodic.Evaluator(
        config, network, sources.train, sources.test)
    metrics = dict(evaluator.run(state))
    self.assertEqual(set(metrics), {
        'knn/test_top1', 'knn/test_top5', 'online_probe/test_top1',
        *_WITHOUT_LABELS})
    for name, value in dict(evaluator.run(state)).items():
      np.testing.assert_equal(
          getattr(value, 'heights', value),
          getattr(metrics[name], 'heights', metrics[name]), name)

  def test_without_labels_or_test_split(self):
    for fields in ({'data': _write_arrays(False)}, {'test_split': ''}):
      config = _config(**fields)
      sources, network, state = _set_up(config)
      metrics = dict(periodic.Evaluator(
          config, network, sources.train, sources.test).run(state))
      self.assertEqual(set(metrics), _WITHOUT_LABELS)


class NeighborsTest(absltest.TestCase):

  def test_nearest_first_and_pictures_of_the_right_examples(self):
    config = _config(data=_write_arrays(True))
    sources, network, state = _set_up(config)
    made, found = final.FinalEvaluator(config, network, sources, []).run(
        features.online_variables(state), step=0)
    self.assertEqual(made, [])
    splits = found.splits
    found = neighbors.find(
        sources.train, sources.test, splits, picture_size=8, num_queries=3,
        k=4)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (
        splits.test.embedding, splits.train.embedding)]
    # One query of each class: the first ones.
    cosine = unit[0][:3] @ unit[1].T
    order = np.argsort(-cosine, axis=1)[:, :4]
    np.testing.assert_array_equal(found.query, sources.test.images[:3])
    np.testing.assert_array_equal(found.neighbor, sources.train.images[order])
    np.testing.assert_array_equal(found.neighbor_label, order % 3)
    np.testing.assert_allclose(
        found.cosine, np.take_along_axis(cosine, order, axis=1), atol=1e-5)


class UnfinishedTest(absltest.TestCase):

  def test_of_other_data_or_protocols_lies_elsewhere(self):
    config = _config(data=_write_arrays(True))
    places = []
    for names in (['knn'], ['knn', 'linear'], ['knn']):
      sources, network, state = _set_up(config)
      evaluator = final.FinalEvaluator(
          config, network, sources, names, '/unfinished')
      places.append(evaluator._find_unfinished(
          features.online_variables(state)))
      if len(places) == 2:  # the same names and numbers, other contents
        path = config.data.partition(':')[2]
        os.utime(path, ns=(1, 1))
    self.assertLen(set(places), 3)
    self.assertStartsWith(places[1], '/unfinished/knn+linear-')


class RecordsTest(parameterized.TestCase):

  @parameterized.parameters(
      ('tfds:cifar10', 'cifar10'), ('tfds:cifar10:3.0.2', 'cifar10-3.0.2'),
      ('tfds:imagenette/160px-v2', 'imagenette-160px-v2'),
      ('folder:/data/my birds/', 'my-birds'), ('fake', 'fake'),
      ('arrays:/data/x.npz', 'x'), ('fake:96', 'fake-96'),
      ('pairs:/data/streets', 'streets'))
  def test_names_of_files(self, data, expected):
    self.assertEqual(records.dataset_slug(data), expected)


if __name__ == '__main__':
  absltest.main()

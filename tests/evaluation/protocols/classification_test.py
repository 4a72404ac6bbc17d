"""Every protocol of classification, whole, on images that a child could sort.
"""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.data import examples
from byol_jax.evaluation import classifier
from byol_jax.evaluation import final
from byol_jax.evaluation import records
from byol_jax.evaluation import subject as subject_lib
from byol_jax.evaluation.protocols import finetune
from byol_jax.evaluation.protocols import logistic
from byol_jax.networks import network as network_lib

_CLASSES = 3


def _source(count, name, *, multi_label=False, seed=0):
  """Grey pictures in a class's colour, or in the colours of several."""
  rng = np.random.default_rng(seed)
  images = rng.integers(100, 140, (count, 8, 8, 3), np.uint8)
  if multi_label:
    label = rng.integers(0, 2, (count, _CLASSES), np.int32)
    images += (80 * label[:, None, None]).astype(np.uint8)
    label[rng.uniform(size=label.shape) < 0.1] = -1
  else:
    label = rng.integers(0, _CLASSES, count, np.int32)
    images += (80 * np.eye(_CLASSES)[label][:, None, None]).astype(np.uint8)
  return examples.InMemorySource(
      name=name, num_examples=count, num_classes=_CLASSES, images=images,
      labels=label, is_multi_label=multi_label)


def _sources(valid=False, **options):
  return subject_lib.Sources(
      _source(96, 'train', **options), _source(48, 'test', seed=1, **options),
      _source(32, 'valid', seed=2, **options) if valid else None)


@pytest.fixture
def config(tiny_config):
  fields = {
      'test_crop_ratio': 1.0, 'evaluate_batch_size': 48,
      'augment.view1.crop_area_range': (0.5, 1.0),
      'logistic.num_values': 4, 'logistic.l2_range': (1e-3, 1e2),
      'logistic.held_out_share': 0.2,
      'semi_supervised.shares': (0.25,), 'semi_supervised.num_epochs': (20,),
      'semi_supervised.learning_rates': (1e-6, 0.3),
      'semi_supervised.batch_size': 32,  # more than the labelled ones
      'semi_supervised.held_out_share': 0.3,
      'finetune.num_steps': 25, 'finetune.batch_size': 32,
      'finetune.learning_rates': (1e-6, 0.3),
      'finetune.weight_decays': (0.0, 1e-4), 'finetune.held_out_share': 0.25}
  for name, value in fields.items():
    config_lib.set_field(tiny_config, name, value)
  return tiny_config


def _initialise(config, encoder):
  network = network_lib.create_network(config, None, encoder)
  images = np.zeros((1, 8, 8, 3), np.float32)
  return network, network.init(jax.random.key(0), images)


def _evaluate(
    config, encoder, names, sources, directory=None, **options):
  network, variables = _initialise(config, encoder)
  made, _ = final.FinalEvaluator(
      config, network, sources, names, progress_directory=directory).run(
          variables, step=7, **options)
  return {record['protocol']: record for record in made}


def test_each_learns_and_says_what_it_did(config, tiny_encoder, tmp_path):
  made = _evaluate(
      config, tiny_encoder, ['logistic', 'semi_supervised', 'finetune'],
      _sources(), str(tmp_path / 'unfinished'))
  for record in made.values():
    assert records.headline(record) > 0.9, record
    assert record['description'] and record['settings']
  metrics = made['semi_supervised']['metrics']
  assert metrics['semi_supervised/25pct_learning_rate'] == 0.3
  assert metrics['semi_supervised/25pct_num_epochs'] == 20
  assert metrics['semi_supervised/25pct_batch_size'] == 24
  assert made['finetune']['metrics']['finetune/learning_rate'] == 0.3
  assert made['logistic']['metrics']['logistic/not_converged'] == 0
  # What was unfinished is finished.
  assert not list(tmp_path.iterdir())
  text = records.table(list(made.values()))
  assert '25pct top-1 ' in text and 'logistic regression, best of 4' in text


def test_several_labels_and_a_validation_split(config, tiny_encoder):
  config.metric, config.valid_split = 'map', 'valid'
  made = _evaluate(config, tiny_encoder, ['logistic', 'finetune'],
                   _sources(valid=True, multi_label=True))
  for name, record in made.items():
    assert record['headline'] == f'{name}/test_map'
    assert records.headline(record) > 0.9, record


def test_mean_per_class(config, tiny_encoder):
  config.metric = 'mean_per_class'
  made = _evaluate(config, tiny_encoder, ['logistic'], _sources())
  assert made['logistic']['headline'] == 'logistic/test_mean_per_class'
  assert 'mean per class' in records.table(list(made.values()))


def test_a_sweep_goes_on_and_ends_alike(
    config, tiny_encoder, tmp_path, monkeypatch):
  """Killed in its third fit, of four and the last one."""
  whole = _evaluate(config, tiny_encoder, ['finetune'], _sources())
  fits = []
  fit = classifier.Classifier.fit

  def cut(self, *args, what, **kwargs):
    if len(fits) == 2:
      fits.append('killed')
      raise KeyboardInterrupt
    fits.append(what)
    return fit(self, *args, what=what, **kwargs)

  monkeypatch.setattr(classifier.Classifier, 'fit', cut)
  with pytest.raises(KeyboardInterrupt):
    _evaluate(config, tiny_encoder, ['finetune'], _sources(), str(tmp_path))
  again = _evaluate(
      config, tiny_encoder, ['finetune'], _sources(), str(tmp_path))
  assert [what.split(',')[0] for what in fits] == [
      'sweep', 'sweep', 'killed', 'sweep', 'sweep', 'final']
  assert len(set(fits)) == 6
  assert again['finetune']['metrics'] == whole['finetune']['metrics']


def test_features_go_on_where_they_were(
    config, tiny_encoder, tmp_path, monkeypatch, caplog):
  config.evaluate_batch_size = 16
  monkeypatch.setattr(
      'byol_jax.evaluation.features._SAVE_SECONDS', 0.0)
  network, variables = _initialise(config, tiny_encoder)
  sources = _sources()
  extractor = subject_lib.Extractor(config, network, sources)
  subject = subject_lib.Subject(
      config, network, variables, sources, extractor,
      progress_directory=str(tmp_path))
  whole = subject.splits
  first = sorted(tmp_path.glob('features_train/process0/part*.npz'))
  assert len(first) == 6
  for path in first[3:]:
    path.unlink()
  with caplog.at_level(logging.INFO, logger='absl'):
    again = dataclasses.replace(subject).splits
  assert [r.getMessage() for r in caplog.records if 'features' in r.name
          or 'batches' in r.getMessage()] == [
              f'features of train: {n} of 6 batches' for n in (4, 5, 6)]
  np.testing.assert_array_equal(again.train.embedding, whole.train.embedding)
  np.testing.assert_array_equal(again.train.label, whole.train.label)


def test_unfinished_work_is_of_one_encoder_and_config(
    config, tiny_encoder, tmp_path):
  _, variables = _initialise(config, tiny_encoder)
  name = subject_lib.identify(config, variables)
  assert name == subject_lib.identify(config, jax.device_get(variables))
  others = [
      subject_lib.identify(config, jax.tree.map(lambda x: x + 1e-6, variables))]
  for field, value in (
      ('seed', 7), ('resnet.width', 0.5), ('finetune.num_steps', 7),
      ('augment.view1.crop_area_range', (0.1, 1.0)),
      ('semi_supervised.subsets', (str(tmp_path / 'list'),))):
    (tmp_path / 'list').write_text('1')
    other = config.copy_and_resolve_references()
    config_lib.set_field(other, field, value)
    others.append(subject_lib.identify(other, variables))
  (tmp_path / 'list').write_text('2')
  others.append(subject_lib.identify(other, variables))
  assert len({name, *others}) == 1 + len(others)


def test_a_protocol_that_ended_is_not_run_again(
    config, tiny_encoder, tmp_path, monkeypatch):
  """Nor is its record lost, when the next one is cut short."""
  def cut(*args, **kwargs):
    raise KeyboardInterrupt

  written = []
  with monkeypatch.context() as patch:
    patch.setattr(finetune, 'run', cut)
    with pytest.raises(KeyboardInterrupt):
      _evaluate(config, tiny_encoder, ['logistic', 'finetune'], _sources(),
                str(tmp_path / 'unfinished'), on_record=written.append)
  assert [record['protocol'] for record in written] == ['logistic']
  monkeypatch.setattr(logistic, 'run', cut)
  monkeypatch.setattr(
      finetune, 'run', lambda _: iter([
          ('finetune/test_top1', 0.5), ('finetune/learning_rate', 0.1),
          ('finetune/weight_decay', 0.0)]))
  made = _evaluate(config, tiny_encoder, ['logistic', 'finetune'], _sources(),
                   str(tmp_path / 'unfinished'))
  assert made['logistic'] == written[0]
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('steps, expected', [
    (50, 0.9), (100, 0.9), (500, 0.98)])
def test_batch_norm_momentum(steps, expected):
  assert finetune.batch_norm_momentum(steps) == pytest.approx(expected)


@pytest.mark.parametrize('fields, name, sources, message', [
    ({'finetune.learning_rates': ()}, 'finetune', {}, 'is empty'),
    ({'semi_supervised.batch_size': 30}, 'semi_supervised', {},
     'multiple of 4 devices'),
    ({'logistic.held_out_share': 0.0}, 'logistic', {}, 'nothing to choose on'),
    ({'logistic.l2_range': (1.0, 0.1)}, 'logistic', {}, 'rising'),
    ({}, 'knn', {'multi_label': True}, 'config.metric is top1.*expected map'),
    ({'metric': 'map'}, 'finetune', {}, 'expected top1 or mean_per_class'),
    ({'metric': 'map'}, 'linear', {'multi_label': True},
     'needs one label for each'),
])
def test_what_cannot_run(config, fields, name, sources, message):
  for field, value in fields.items():
    config_lib.set_field(config, field, value)
  with pytest.raises(config_lib.ConfigError, match=message) as raised:
    final.FinalEvaluator(config, None, _sources(**sources), [name])
  assert '\n' not in str(raised.value)


def test_all_labels_leave_nothing_to_choose_on(config, tiny_encoder):
  config.semi_supervised.shares = (1.0,)
  with pytest.raises(config_lib.ConfigError, match='nothing is left'):
    _evaluate(config, tiny_encoder, ['semi_supervised'], _sources())


def test_classes_that_differ_between_splits(config):
  sources = dataclasses.replace(_sources(), test=dataclasses.replace(
      _source(8, 'test'), num_classes=4))
  with pytest.raises(config_lib.ConfigError, match='3 classes in its split'):
    final.FinalEvaluator(config, None, sources, ['knn'])

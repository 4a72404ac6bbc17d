"""What protocols fit, choose and measure on.

Nothing learns here. Fitted rows are of class 0, those to choose on of class 1,
those of test of class 2, and each setting stands for a fit that knows but one
class. The right one to choose is that which knows class 1, and on test it is
always wrong.
"""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.data import examples
from byol_jax.evaluation import classifier
from byol_jax.evaluation import features
from byol_jax.evaluation import linear as linear_lib
from byol_jax.evaluation import logistic_fit
from byol_jax.evaluation import progress
from byol_jax.evaluation import resumable
from byol_jax.evaluation import selection
from byol_jax.evaluation import subject as subject_lib
from byol_jax.evaluation.protocols import finetune
from byol_jax.evaluation.protocols import linear
from byol_jax.evaluation.protocols import logistic
from byol_jax.evaluation.protocols import semi_supervised

_TRAIN, _VALID, _TEST = range(20), range(100, 108), range(200, 204)
_SHARE = 0.25
_RATES = (0.1, 0.2, 0.4)  # the fits that know class 0, 1 and 2

with_and_without_valid = pytest.mark.parametrize('has_valid', [True, False])


@pytest.fixture
def config(tiny_config):
  for name, value in {
      'seed': 3, 'linear.base_learning_rates': _RATES, 'linear.num_epochs': 2,
      'linear.batch_size': 4, 'linear.held_out_share': _SHARE,
      'logistic.num_values': 3, 'logistic.l2_range': (1.0, 100.0),
      'logistic.held_out_share': _SHARE,
      'semi_supervised.learning_rates': _RATES,
      'semi_supervised.num_epochs': (2, 3), 'semi_supervised.shares': (0.4,),
      'semi_supervised.batch_size': 8,
      'semi_supervised.held_out_share': _SHARE,
      'finetune.learning_rates': _RATES, 'finetune.weight_decays': (0.0, 0.03),
      'finetune.num_steps': 7, 'finetune.batch_size': 4,
      'finetune.held_out_share': _SHARE}.items():
    config_lib.set_field(tiny_config, name, value)
  return tiny_config


def _split(name, ids, ones=()):
  """Examples whose only pixel and only feature are their ids."""
  label = np.isin(ids, ones).astype(np.int32) + 2 * (name == 'test')
  ids = np.array(ids)
  source = examples.InMemorySource(
      name=name, num_examples=len(ids), num_classes=3, labels=label,
      images=np.tile(ids[:, None, None, None], (1, 8, 8, 3)).astype(np.uint8))
  return source, features.Features(
      ids[:, None].astype(np.float32), np.arange(len(ids), dtype=np.int32),
      label)


def _subject(config, has_valid, rows=_TRAIN):
  """A subject, and the ids to fit and to choose on; of `rows` if of train."""
  chosen_on = list(_VALID) if has_valid else selection.hold_out(
      np.array(rows), _SHARE, config.seed).tolist()
  fitted = [i for i in _TRAIN if i not in chosen_on]
  made = dict(
      train=_split('train', _TRAIN, chosen_on), test=_split('test', _TEST))
  if has_valid:
    made['valid'] = _split('valid', _VALID, chosen_on)
  subject = types.SimpleNamespace(
      config=config, network=None, variables=None, embedding_size=1,
      sources=subject_lib.Sources(**{k: v[0] for k, v in made.items()}),
      splits=features.Splits(**{k: v[1] for k, v in made.items()}),
      open_progress=lambda name: progress.Progress(None))
  return subject, fitted, chosen_on


@pytest.fixture
def classifiers(monkeypatch):
  """Those that were made; each knows what it was asked."""
  made = []

  class Classifier:
    """Knows a rate's class if it decays, or takes three steps, else class 0."""

    def __init__(self, subject, **options):
      self.options, self.fits, self.scored = options, [], []
      made.append(self)

    def fit(
        self, source, index, *, batch_size, total_steps, learning_rate,
        weight_decay=0.0, what, directory):
      self.fits.append(types.SimpleNamespace(
          ids=_ids(source, index), batch_size=batch_size,
          total_steps=total_steps, rate=learning_rate, decay=weight_decay))
      better = weight_decay or total_steps == 3
      return _RATES.index(learning_rate) if better else 0

    def score(self, variables, source, index=None):
      ids = _ids(source, index)
      self.scored.append((variables, ids))
      label = source.labels if index is None else source.labels[index]
      return np.eye(3, dtype=np.float32)[np.full(len(ids), variables)], label

  monkeypatch.setattr(classifier, 'Classifier', Classifier)
  return made


def _ids(source, index):
  ids = source.images[:, 0, 0, 0]
  return sorted((ids if index is None else ids[index]).tolist())


@with_and_without_valid
def test_finetune(config, classifiers, has_valid):
  """Sweeps on train, chooses beside it, fits all of both, measures once."""
  subject, fitted, chosen_on = _subject(config, has_valid)
  metrics = dict(finetune.run(subject))
  assert metrics == {
      'finetune/test_top1': 0.0, 'finetune/learning_rate': 0.2,
      'finetune/weight_decay': 0.03}
  made, = classifiers
  *sweep, last = made.fits
  assert all(fit.ids == fitted for fit in sweep)
  assert last.ids == [*_TRAIN, *(_VALID if has_valid else ())]
  *choices, test = made.scored
  assert [ids for _, ids in choices] == 6 * [chosen_on]
  assert test == (1, [*_TEST])
  assert {(fit.batch_size, fit.total_steps) for fit in made.fits} == {(4, 7)}


def test_finetune_divides_the_decay_by_the_learning_rate(config, classifiers):
  dict(finetune.run(_subject(config, True)[0]))
  made, = classifiers
  assert [fit.rate for fit in made.fits] == [.1, .1, .2, .2, .4, .4, .2]
  np.testing.assert_allclose(
      [fit.decay for fit in made.fits], [0, .3, 0, .15, 0, .075, .15])


def test_finetune_asks_for_its_batch_norm_momentum(
    config, classifiers, monkeypatch):
  """By a rule that five steps an epoch can tell from a constant."""
  monkeypatch.setattr(finetune, 'batch_norm_momentum', lambda steps: 1 / steps)
  dict(finetune.run(_subject(config, True)[0]))
  assert classifiers[0].options['batch_norm_momentum'] == 1 / 5


@with_and_without_valid
def test_semi_supervised(config, classifiers, tmp_path, has_valid):
  """Fits the labelled rows alone, chooses on others, measures the chosen."""
  subset = list(range(8))
  (tmp_path / 'list').write_text(' '.join(map(str, subset)))
  config.semi_supervised.subsets = (str(tmp_path / 'list'),)
  subject, _, chosen_on = _subject(config, has_valid, rows=range(8, 20))
  metrics = dict(semi_supervised.run(subject))
  assert metrics == {
      'semi_supervised/40pct_test_top1': 0.0,
      'semi_supervised/40pct_learning_rate': 0.2,
      'semi_supervised/40pct_num_epochs': 3,
      'semi_supervised/40pct_num_labels': 8,
      'semi_supervised/40pct_batch_size': 8}
  made, = classifiers
  assert not set(subset) & set(chosen_on)
  assert [fit.ids for fit in made.fits] == 6 * [subset]
  assert [(fit.rate, fit.total_steps) for fit in made.fits] == [
      (rate, steps) for rate in _RATES for steps in (2, 3)]
  *choices, test = made.scored
  assert [ids for _, ids in choices] == 6 * [chosen_on]
  assert test == (1, [*_TEST])


def _heads():
  """Three that know a class each."""
  return linear_lib.Heads(
      jnp.int32(0), {'kernel': jnp.zeros((3, 1, 3)), 'bias': jnp.eye(3)}, None)


_LINEAR_METRICS = {
    'linear/test_top1': 0.0, 'linear/base_learning_rate': _RATES[1]}


@with_and_without_valid
def test_linear_on_features(config, monkeypatch, has_valid):
  config.linear.augment = False
  subject, fitted, _ = _subject(config, has_valid)
  learnt = []

  def train(embedding, label, weight, *, base_learning_rates, **options):
    assert base_learning_rates == _RATES
    # What train's mean and deviation had made of them.
    ids = np.rint(embedding[:, 0] * np.std(_TRAIN) + np.mean(_TRAIN))
    learnt.extend(ids[weight > 0])
    np.testing.assert_array_equal(label[weight > 0], 0)
    return _heads()

  monkeypatch.setattr(linear_lib, 'train_on_features', train)
  assert dict(linear.run(subject)) == _LINEAR_METRICS
  assert sorted(learnt) == fitted


@with_and_without_valid
def test_linear_on_images(config, monkeypatch, has_valid):
  """Held-out rows pass by, without weight."""
  subject, fitted, _ = _subject(config, has_valid)
  seen, learnt = set(), set()

  def run_steps(p_step, state, make_batches, *, total_steps, **options):
    assert total_steps == 10
    for batch in make_batches(0):
      # A crop of one colour is of that colour.
      ids = np.rint(255 * batch['image'][:, 0, 0, 0])
      seen.update(ids)
      learnt.update(ids[batch['weight'] > 0])
    return _heads()

  monkeypatch.setattr(resumable, 'run_steps', run_steps)
  assert dict(linear.run(subject)) == _LINEAR_METRICS
  assert seen == set(_TRAIN) and learnt == set(fitted)


@with_and_without_valid
def test_logistic(config, monkeypatch, has_valid):
  """The path on train, the choice beside it, the last fit of both."""
  subject, fitted, chosen_on = _subject(config, has_valid)
  strengths, fits = (100, 10, 1), []

  def create_problem(embedding, target, **options):
    return dict(zip(embedding[:, 0], target, strict=True))

  def fit(problem, l2, init=None, **options):
    fits.append((problem, round(l2)))
    bias = np.eye(3, dtype=np.float32)[strengths.index(round(l2))]
    return logistic_fit.Fit(
        {'kernel': np.zeros((1, 3), np.float32), 'bias': bias}, l2, 1, True,
        0.0, 0.0)

  monkeypatch.setattr(logistic_fit, 'create_problem', create_problem)
  monkeypatch.setattr(logistic_fit, 'fit', fit)
  metrics = dict(logistic.run(subject))
  assert metrics == {
      'logistic/test_top1': 0.0, 'logistic/valid_top1': 1.0,
      'logistic/l2': pytest.approx(10), 'logistic/not_converged': 0.0}
  train = dict.fromkeys(fitted, 0)
  both = train | dict.fromkeys(chosen_on, 1)
  assert fits == [(train, l2) for l2 in strengths] + [(both, 10)]

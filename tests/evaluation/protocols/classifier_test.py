"""The classifier behind fine-tuning: what a fit is given. Nothing learns."""

import functools
import types

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.data import examples
from byol_jax.evaluation import classifier
from byol_jax.evaluation import finetuning
from byol_jax.evaluation import subject as subject_lib
from byol_jax.networks import network as network_lib
from byol_jax.networks import normalization


def _subject(config, encoder=None):
  """Example n is an image of the colour n."""
  ids = np.arange(20, dtype=np.uint8)
  source = examples.InMemorySource(
      name='train', num_examples=20, num_classes=20,
      images=np.tile(ids[:, None, None, None], (1, 8, 8, 3)),
      labels=ids.astype(np.int32))
  return types.SimpleNamespace(
      config=config, network=network_lib.create_network(config, None, encoder),
      sources=subject_lib.Sources(source, source))


def _momenta(made):
  """Of every batch normalisation that the encoder calls."""
  found = set()

  def record(next_fun, args, kwargs, context):
    if isinstance(context.module, (nn.BatchNorm, normalization.BatchNorm)):
      assert context.module.path[0] == 'encoder'
      found.add(context.module.momentum)
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(record):
    jax.eval_shape(
        functools.partial(made._task.module.init, train=True),
        jax.random.key(0), jnp.zeros((2, 8, 8, 3)))
  return found


@pytest.mark.parametrize('asked, expected', [(0.98, 0.98), (None, 0.9)])
def test_batch_norm_momentum_is_the_encoders(tiny_config, asked, expected):
  tiny_config.batch_norm_momentum = 0.9
  made = classifier.Classifier(
      _subject(tiny_config), momentum=0.9, batch_norm_momentum=asked)
  assert _momenta(made) == {expected}
  assert tiny_config.batch_norm_momentum == 0.9


def test_a_users_encoder_keeps_its_batch_norm_momentum(
    tiny_config, tiny_encoder):
  made = classifier.Classifier(
      _subject(tiny_config, tiny_encoder), momentum=0.9,
      batch_norm_momentum=0.98)
  assert _momenta(made) == {0.9}


def test_learning_rate_falls_along_half_a_cosine():
  """To 0 after the last step; the decay is added to the gradient."""
  tx = classifier._make_optimizer(
      {'learning_rate': jnp.float32(0.5), 'weight_decay': jnp.float32(0.1),
       'total_steps': jnp.float32(4)}, momentum=0.0)
  params, updates = {'w': jnp.float32(2.0)}, []
  state = tx.init(params)
  for _ in range(5):
    update, state = tx.update({'w': jnp.float32(1.0)}, state, params)
    updates.append(update['w'])
  np.testing.assert_allclose(
      updates, [-0.6, -0.6 * 0.853553, -0.3, -0.6 * 0.146447, 0], atol=1e-6)


def test_a_fit_sees_its_rows_alone(tiny_config, monkeypatch):
  given = []

  class Trainer:

    def __init__(self, task, make_optimizer):
      pass

    def fit(self, variables, make_batches, *, total_steps, settings, **options):
      assert variables == 'start' and options['directory'] == 'here'
      given.append(settings)
      batches = list(make_batches(0))
      assert len(batches) == total_steps
      return {int(label) for batch in batches for label in batch['label']}

  monkeypatch.setattr(finetuning, 'Trainer', Trainer)
  monkeypatch.setattr(classifier.Classifier, '_start', 'start')
  subject = _subject(tiny_config)
  made = classifier.Classifier(subject, momentum=0.9)
  fit = functools.partial(
      made.fit, subject.sources.train, batch_size=4, learning_rate=0.2,
      weight_decay=0.03, what='test', directory='here')
  assert fit(np.arange(3, 11), total_steps=4) == set(range(3, 11))
  assert fit(None, total_steps=5) == set(range(20))
  assert given == [
      {'learning_rate': 0.2, 'weight_decay': 0.03, 'total_steps': steps}
      for steps in (4, 5)]


def test_scores_are_of_the_rows_asked_for(tiny_config, monkeypatch):
  subject = _subject(tiny_config)
  made = classifier.Classifier(subject, momentum=0.9)

  def dispatch(variables, images):
    return lambda: {'embedding': np.asarray(images)[:, 0, 0]}

  monkeypatch.setattr(
      made, '_predict', types.SimpleNamespace(dispatch=dispatch))
  for index in (np.array([2, 5, 11]), None):
    scores, label = made.score({}, subject.sources.test, index)
    np.testing.assert_array_equal(
        label, np.arange(20) if index is None else index)
    np.testing.assert_allclose(255 * scores[:, 0], label, atol=1e-3)

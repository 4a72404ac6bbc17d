"""Segmentation and depth end to end, on a few small scenes."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.data import arrays
from byol_jax.data import dense_scenes
from byol_jax.evaluation import dense
from byol_jax.evaluation import protocols
from byol_jax.evaluation import subject as subject_lib
from byol_jax.networks import network as network_lib

COLORS = np.uint8([[200, 60, 60], [60, 200, 60], [60, 60, 200]])


@pytest.fixture(scope='module')
def patches(tmp_path_factory):
  """Squares of 16 pixels, whose colours are their classes."""
  path = tmp_path_factory.mktemp('patches')
  rng = np.random.default_rng(0)
  for split in ('train', 'test'):
    for folder in ('images', 'labels'):
      (path / split / folder).mkdir(parents=True)
    for i in range(16):
      label = rng.integers(0, 3, (2, 3), np.uint8)
      label = label.repeat(16, axis=0).repeat(16, axis=1)
      Image.fromarray(COLORS[label]).save(path / split / f'images/{i}.png')
      Image.fromarray(label).save(path / split / f'labels/{i}.png')
  return f'pairs:{path}'


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
  path = tmp_path_factory.mktemp('scenes')
  pictures = dense_scenes.Pictures(arrays.create_fake_source('', 'train', 32))
  dense_scenes.write_scenes(
      str(path), train=pictures, test=pictures, num_unlabelled=1,
      num_train=16, num_test=8, height=32, width=64)
  return f'pairs:{path}'


@pytest.fixture
def config(tiny_config, patches):
  tiny_config.data = patches
  tiny_config.resnet.stem = 'stride2'
  tiny_config.image_size = 32
  tiny_config.segmentation.update(
      num_steps=12, batch_size=8, learning_rates=(0.1,), crop_size=33,
      head_channels=16, head_dilation=2, evaluate_batch_size=8)
  tiny_config.depth.update(
      num_steps=12, batch_size=8, learning_rates=(0.02,), scale=0.5,
      crop_height=16, crop_width=24, head_channels=(16, 8),
      evaluate_batch_size=8)
  config_rules.validate(tiny_config)
  return tiny_config


@functools.cache
def _encoder_variables():
  """Compiled once for all tests."""
  config = config_lib.get_base_config()
  config.encoder = 'resnet10'
  config.resnet.update(width=1 / 16, stem='stride2')
  encoder = network_lib.create_encoder(config)
  variables = jax.jit(encoder.init)(
      jax.random.key(0), jnp.zeros((1, 17, 17, 3)))
  return {kind: {'encoder': v} for kind, v in variables.items()}


def _subject(config, variables, progress_directory=None):
  return subject_lib.Subject(
      config, network_lib.create_network(config, None), variables,
      subject_lib.open_sources(config), None, progress_directory)


def _run(name, config, variables, **kwargs):
  subject = _subject(config, variables, **kwargs)
  module = protocols.get(name)
  module.check(config, subject.sources)
  metrics = dict(module.run(subject))
  assert module.headline(config) in metrics
  assert module.describe(config, metrics)
  assert module.settings(config)['num_steps'] == config[name].num_steps
  return metrics


def test_segmentation_learns(config):
  """Far beyond guessing, of which the mIoU is a fifth."""
  config.segmentation.num_steps = 40
  metrics = _run('segmentation', config, _encoder_variables())
  assert set(metrics) == {
      'segmentation/test_miou', 'segmentation/test_pixel_accuracy',
      'segmentation/learning_rate'}
  assert metrics['segmentation/test_miou'] > 0.5


@pytest.mark.slow
def test_depth_learns(config, scenes):
  """Beyond the one depth that fits best."""
  config.data = scenes
  config.depth.num_steps = 480
  metrics = _run('depth', config, _encoder_variables())
  assert set(metrics) == {f'depth/{name}' for name in (
      'test_delta1', 'test_delta2', 'test_delta3', 'test_rms', 'test_rel',
      'learning_rate')}
  source = subject_lib.open_sources(config).test
  depths = np.concatenate([
      source.load_depth(i).numpy().flatten() for i in range(8)])
  assert metrics['depth/test_rms'] < 0.8 * depths.std()


def test_sweep_frozen_and_resumed(config, tmp_path, monkeypatch):
  """Both encoders, each choosing among rates; what is measured stays so."""
  config.segmentation.update(
      learning_rates=(0.1, 0.2, 0.3), freeze_encoder=(False, True))
  fitted = []

  class Fitter:
    """Learns its learning rate by heart."""

    def __init__(self, subject, task, frozen):
      self.frozen = frozen

    def fit(self, source, index, *, learning_rate, what, directory):
      if len(fitted) == 5:
        fitted.append('cut short')
        raise KeyboardInterrupt
      assert what.split(', ')[1] == ('frozen' if self.frozen else 'finetuned')
      fitted.append((learning_rate, None if index is None else len(index)))
      return learning_rate

    def measure(self, variables, source, index):
      # Chosen on four of train; the frozen encoder wants another rate.
      assert (index is None) == (source.name.endswith('(test)'))
      assert index is None or len(index) == 3
      best = 0.3 if self.frozen else 0.2
      return {'miou': 1 - abs(variables - best)}

  monkeypatch.setattr(dense, '_Fitter', Fitter)
  with pytest.raises(KeyboardInterrupt):
    _run('segmentation', config, None, progress_directory=str(tmp_path))
  metrics = _run('segmentation', config, None, progress_directory=str(tmp_path))
  assert metrics == {
      'segmentation/finetuned_test_miou': 1.0,
      'segmentation/finetuned_learning_rate': 0.2,
      'segmentation/frozen_test_miou': 1.0,
      'segmentation/frozen_learning_rate': 0.3}
  sweep, final = [(rate, 13) for rate in (0.1, 0.2, 0.3)], [(0.2, None)]
  assert fitted == (
      sweep + final + sweep[:1] + ['cut short'] + sweep[1:] + [(0.3, None)])


@pytest.mark.slow
def test_frozen_encoder_stays(config):
  subject = _subject(config, _encoder_variables())
  made = []
  for frozen in (True, False):
    task = _segmentation_task(subject)
    fitter = dense._Fitter(subject, task, frozen)
    variables = fitter.fit(
        subject.sources.train, None, learning_rate=0.1, what='test',
        directory=None)
    made.append(jax.tree.all(jax.tree.map(
        lambda a, b: bool(np.all(a == b)), variables['params']['encoder'],
        subject.variables['params']['encoder'])))
    for name in ('params', 'batch_stats'):
      assert any(jax.tree.leaves(jax.tree.map(
          lambda a, b: bool(np.any(a != b)), variables[name]['head'],
          fitter._start[name]['head'])))
  assert made == [True, False]


def _segmentation_task(subject):
  """What the protocol would run."""
  tasks = []
  original = dense.run
  try:
    dense.run = lambda subject, task: tasks.append(task) or ()
    list(protocols.get('segmentation').run(subject))
  finally:
    dense.run = original
  return tasks[0]


@pytest.mark.parametrize('name, change, message', [
    ('segmentation', {'data': 'fake:64'}, 'needs label maps, and fake:64 has'),
    ('depth', {'data': 'fake:64'}, 'needs depth maps, and fake:64 has none'),
    ('segmentation', {'test_split': ''}, 'needs a test split'),
    ('segmentation', {'segmentation.batch_size': 6}, 'multiple of 4 devices'),
    ('segmentation', {'segmentation.learning_rates': ()}, 'is empty'),
    ('segmentation', {'segmentation.learning_rates': (0.1, 0.2),
                      'segmentation.held_out_share': 0.0}, 'choose'),
    ('segmentation', {'resnet.padding': 'same', 'segmentation.crop_size': 36},
     'crop_size is 36, .* multiple of it plus 1, such as 33'),
    ('depth', {'depth.crop_height': 17},
     'images 32 pixels high .* expected at least 17 by 24'),
])
def test_what_cannot_run(config, scenes, name, change, message):
  config = copy.deepcopy(config)
  config.data = scenes
  for field, value in change.items():
    config_lib.set_field(config, field, value)
  with pytest.raises(config_lib.ConfigError, match=message):
    protocols.get(name).check(config, subject_lib.open_sources(config))


def _write(path, split, labels):
  """A pair of each label map, 32 x 48 pixels of depth 1."""
  for folder in ('images', 'labels', 'depth'):
    (path / split / folder).mkdir(parents=True)
  for i, label in enumerate(labels):
    values = np.full((32, 48), label, np.uint8)
    Image.fromarray(np.stack(3 * [values], axis=-1)).save(
        path / split / f'images/{i}.png')
    Image.fromarray(values).save(path / split / f'labels/{i}.png')
    np.save(path / split / f'depth/{i}.npy', np.ones((32, 48), np.float32))


@pytest.mark.parametrize('name, train, test, fields, message', [
    ('segmentation', (0, 1, 1), (255, 255), {},
     r'every pixel of the label maps of pairs:.* \(test\) is ignored, .*'
     'choose another config.test_split'),
    ('segmentation', (255, 255), (0,), {}, 'another config.train_split'),
    ('segmentation', (0, 1, 1), (0,), {'valid_split': 'secret'},
     'another config.valid_split'),
    ('segmentation', (255, 255, 1), (0,),
     {'segmentation.learning_rates': (0.1, 0.2)},
     r'the \d label maps of .*held_out_share=0.2 leaves to (fit|choose) on '
     'is ignored'),
    ('segmentation', (1,), (0,), {'segmentation.learning_rates': (0.1, 0.2)},
     "of the 1 images of 'train' that leaves none to choose settings on"),
    ('depth', (1,), (0,), {'depth.learning_rates': (0.1, 0.2)},
     'config.depth.held_out_share is 0.1, and of the 1 images'),
    ('depth', (1, 1, 0), (0,), {
        'depth.learning_rates': (0.1, 0.2), 'depth.held_out_share': 0.9},
     'that leaves none to fit on: give another share')])
def test_what_leaves_nothing_to_learn_or_measure(
    config, tmp_path, name, train, test, fields, message):
  for split, labels in (('train', train), ('test', test), ('secret', (255,))):
    _write(tmp_path, split, labels)
  (tmp_path / 'classes.txt').write_text('a\nb\n')
  config.data = f'pairs:{tmp_path}'
  for field, value in fields.items():
    config_lib.set_field(config, field, value)
  with pytest.raises(config_lib.ConfigError, match=message) as error:
    protocols.get(name).check(config, subject_lib.open_sources(config))
  assert len(str(error.value).splitlines()) == 1


def test_one_image_is_enough_where_nothing_is_chosen(config, tmp_path):
  for split in ('train', 'test'):
    _write(tmp_path, split, (1,))
  config.data = f'pairs:{tmp_path}'
  sources = subject_lib.open_sources(config)
  for name in ('segmentation', 'depth'):
    protocols.get(name).check(config, sources)


@pytest.mark.parametrize('field, value', [
    ('segmentation.scale_range', (2.0, 0.5)),
    ('segmentation.learning_rates', (0.0,)),
    ('depth.hue', 0.7), ('depth.saturation_range', (1.0,))])
def test_bad_settings(config, field, value):
  config_lib.set_field(config, field, value)
  with pytest.raises(config_lib.ConfigError, match=f'config.{field} is'):
    config_rules.validate(config)


def test_learning_rate_drops_twice():
  """To a tenth from 70 % of the steps, and to a hundredth from 90 %."""
  tx = dense._make_optimizer(
      {'learning_rate': jnp.float32(2.0)}, momentum=0.0, total_steps=10)
  params, updates = {'w': jnp.float32(1.0)}, []
  state = tx.init(params)
  for _ in range(10):
    update, state = tx.update({'w': jnp.float32(1.0)}, state, params)
    updates.append(update['w'])
  np.testing.assert_allclose(
      updates, 7 * [-2.0] + 2 * [-0.2] + [-0.02], rtol=1e-6)

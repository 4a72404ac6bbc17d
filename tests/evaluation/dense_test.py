"""Segmentation and depth end to end, on a few small scenes."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.data import dense_scenes
from byol_jax.evaluation import dense
from byol_jax.evaluation import protocols
from byol_jax.evaluation import subject as subject_lib
from byol_jax.networks import network as network_lib


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
  path = tmp_path_factory.mktemp('scenes')
  dense_scenes.write_scenes(
      str(path), num_unlabelled=1, num_train=16, num_test=8, height=32,
      width=48)
  return f'pairs:{path}'


@pytest.fixture
def config(tiny_config, scenes):
  tiny_config.data = scenes
  tiny_config.resnet.stem = 'stride2'
  tiny_config.image_size = 32
  tiny_config.segmentation.update(
      num_steps=12, batch_size=8, learning_rates=(0.1,), crop_size=33,
      head_channels=16, head_dilation=2, evaluate_batch_size=8)
  tiny_config.depth.update(
      num_steps=12, batch_size=8, learning_rates=(0.02,), scale=0.5,
      crop_height=16, crop_width=24, head_channels=(16, 8),
      evaluate_batch_size=8)
  config_lib.validate(tiny_config)
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


def _subject(config, progress_directory=None):
  return subject_lib.Subject(
      config, network_lib.create_network(config, None), _encoder_variables(),
      subject_lib.open_sources(config), None, progress_directory)


def _run(name, config, **kwargs):
  subject = _subject(config, **kwargs)
  module = protocols.get(name)
  module.check(config, subject.sources)
  metrics = dict(module.run(subject))
  assert module.headline(config) in metrics
  assert module.describe(config, metrics)
  assert module.settings(config)['num_steps'] == config[name].num_steps
  return metrics


def test_segmentation_learns(config):
  """Beyond naming all pixels background, whose mIoU is a sixth of 0.8."""
  config.segmentation.num_steps = 80
  metrics = _run('segmentation', config)
  assert set(metrics) == {
      'segmentation/test_miou', 'segmentation/test_pixel_accuracy',
      'segmentation/learning_rate'}
  assert metrics['segmentation/test_miou'] > 0.2


def test_depth_learns(config):
  config.depth.num_steps = 60
  metrics = _run('depth', config)
  assert set(metrics) == {f'depth/{name}' for name in (
      'test_delta1', 'test_delta2', 'test_delta3', 'test_rms', 'test_rel',
      'learning_rate')}
  source = subject_lib.open_sources(config).test
  depths = np.concatenate([
      source.load_depth(i).numpy().flatten() for i in range(8)])
  assert metrics['depth/test_rms'] < 0.8 * depths.std()


def test_sweep_frozen_and_resumed(config, tmp_path, monkeypatch):
  """Both encoders, each choosing among two rates; what is done stays so."""
  config.segmentation.update(
      learning_rates=(1e-9, 0.1), freeze_encoder=(False, True), num_steps=8)
  fitted = []
  fit = dense._Fitter.fit

  def spy(self, source, index, *, what, **kwargs):
    fitted.append((what, None if index is None else len(index)))
    if len(fitted) == 4 and 'frozen' in what:
      raise KeyboardInterrupt
    return fit(self, source, index, what=what, **kwargs)

  monkeypatch.setattr(dense._Fitter, 'fit', spy)
  with pytest.raises(KeyboardInterrupt):
    _run('segmentation', config, progress_directory=str(tmp_path))
  first, fitted = list(fitted), []
  monkeypatch.undo()
  assert [what.split(', ')[1:3] for what, _ in first] == [
      ['finetuned', 'sweep'], ['finetuned', 'sweep'], ['finetuned', 'final'],
      ['frozen', 'sweep']]
  # A fifth is held out to choose on; the last fit sees all.
  assert [count for _, count in first] == [13, 13, None, 13]
  metrics = _run('segmentation', config, progress_directory=str(tmp_path))
  assert metrics['segmentation/finetuned_test_miou'] > 0
  assert metrics['segmentation/frozen_learning_rate'] in (1e-9, 0.1)
  assert not any(tmp_path.iterdir())


def test_frozen_encoder_stays(config):
  subject = _subject(config)
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
def test_what_cannot_run(config, name, change, message):
  config = copy.deepcopy(config)
  for field, value in change.items():
    config_lib.set_field(config, field, value)
  with pytest.raises(config_lib.ConfigError, match=message):
    protocols.get(name).check(config, subject_lib.open_sources(config))


@pytest.mark.parametrize('field, value', [
    ('segmentation.scale_range', (2.0, 0.5)),
    ('segmentation.learning_rates', (0.0,)),
    ('depth.hue', 0.7), ('depth.saturation_range', (1.0,))])
def test_bad_settings(config, field, value):
  config_lib.set_field(config, field, value)
  with pytest.raises(config_lib.ConfigError, match=f'config.{field} is'):
    config_lib.validate(config)

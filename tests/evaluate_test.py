"""The evaluate and report jobs, as a user types them."""

import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
from unittest import mock

from absl import flags
from absl.testing import absltest
from absl.testing import flagsaver
from absl.testing import parameterized
from flax import linen as nn
import numpy as np

from byol_jax import config as config_lib
from byol_jax import evaluate
from byol_jax import stopping
from byol_jax.evaluation import classifier
from byol_jax.evaluation import protocols
from byol_jax.evaluation import subject
from byol_jax.interchange import deepmind_workdir
from byol_jax.networks import network as network_lib
from byol_jax.training import saved_run

_CONFIG = """
    from byol_jax import config as config_lib


    def get_config():
      config = config_lib.get_base_config()
      config.data, config.test_split = 'fake:64', 'test'
      config.image_size, config.test_crop_ratio = 8, 1.0
      config.encoder = 'resnet10'
      config.resnet.update(width=1 / 16, stem='cifar')
      config.projector.update(hidden_size=8, output_size=8)
      config.predictor.hidden_size = 8
      config.batch_size, config.evaluate_batch_size = 16, 32
      config.target = 'stop_gradient'
      config.linear.update(augment=False, num_epochs=2, batch_size=32)
      return config
"""


class _Mean(nn.Module):
  """Compiles sooner than a ResNet."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(8)(x.mean(axis=(1, 2)))


def _write_config():
  path = pathlib.Path(tempfile.mkdtemp()) / 'tiny.py'
  path.write_text(textwrap.dedent(_CONFIG))
  return str(path)


def _run(job, *arguments):
  return subprocess.run(
      [sys.executable, '-m', f'byol_jax.{job}', *arguments],
      capture_output=True, text=True, check=False)


def setUpModule():
  if not flags.FLAGS.is_parsed():
    flags.FLAGS([sys.argv[0]])


class JobTest(parameterized.TestCase):

  @parameterized.parameters(
      ('evaluate', ['--checkpoint=/nowhere'], 'no checkpoint in /nowhere'),
      ('evaluate', ['--checkpoint=random'], 'needs --config'),
      ('evaluate', [], 'checkpoint'),
      ('evaluate', ['--checkpoint=/nowhere', '--protocol='],
       '--protocol=: expected all, or some of knn, linear, logistic,'),
      ('evaluate', ['--checkpoint=/nowhere', '--protocol=knn,fewshot'],
       '--protocol=knn,fewshot: expected all'),
      ('evaluate', ['--checkpoint=/nowhere', '--data=birdsnap'],
       'TFDS does not hold birdsnap'),
      ('evaluate', ['--checkpoint=random', '--config=/nowhere.py'],
       '--config=/nowhere.py: there is no such file'),
      ('evaluate',
       ['--checkpoint=random', '--config=configs/ablations.py:tau0'],
       'error: --config: no ablation \'tau0\': did you mean tau_0?'),
      ('report', ['--workdir=/nowhere'], 'no config.json in /nowhere'))
  def test_slips_are_one_line(self, job, arguments, message):
    done = _run(job, *arguments)
    self.assertEqual(done.returncode, 1)
    lines = done.stderr.strip().splitlines()
    self.assertLen(lines, 1, done.stderr)
    self.assertIn(message, lines[0])

  def _restore(self, encoder, overrides):
    """As if a checkpoint of such an encoder were there."""
    config = config_lib.get_base_config()
    config.encoder = encoder
    with flagsaver.flagsaver(checkpoint='somewhere'), mock.patch.object(
        saved_run, 'restore', return_value=(config, None, None)):
      return evaluate._restore(overrides)[0]

  def test_overrides_of_a_checkpoint_are_validated(self):
    with self.assertRaisesRegex(
        config_lib.ConfigError, 'config.knn.k is 0, expected at least 1'):
      self._restore('resnet50', ['--config.knn.k=0'])

  def test_an_encoder_of_the_users_is_no_slip(self):
    config = self._restore('MyEncoder', ['--config.knn.k=7'])
    self.assertEqual((config.encoder, config.knn.k), ('MyEncoder', 7))

  def test_random_initialisation(self):
    output = tempfile.mkdtemp()
    network = network_lib.create_network(
        config_lib.get_base_config(), None, _Mean())
    with flagsaver.flagsaver(
        checkpoint='random', config=_write_config(), output=output,
        protocol=['knn', 'linear']), mock.patch.object(
            network_lib, 'create_network', return_value=network):
      evaluate.main([], ['--config.knn.k=3'])
    folder = pathlib.Path(output) / 'evaluations'
    record = json.loads((folder / 'knn-fake-64-random_init.json').read_text())
    self.assertEqual(record['settings'], {'k': 3, 'temperature': 0.1})
    self.assertTrue(record['random_init'])
    record = json.loads(
        (folder / 'linear-fake-64-random_init.json').read_text())
    self.assertEqual(record['settings']['num_epochs'], 2)
    self.assertBetween(record['metrics']['linear/test_top1'], 0, 1)

  @parameterized.parameters(
      ('random', None, 'starts anew, for nothing is kept without --output'),
      ('random', '/somewhere', 'goes on where this one was'),
      ('/somewhere', None, 'goes on where this one was'))
  def test_a_signal_ends_it(self, checkpoint_flag, output, message):
    with flagsaver.flagsaver(
        checkpoint=checkpoint_flag, output=output), mock.patch.object(
            evaluate, '_evaluate',
            side_effect=lambda _: os.kill(os.getpid(), signal.SIGTERM)):
      with self.assertRaises(stopping.Preempted) as ended:
        evaluate.main([])
    self.assertEqual(ended.exception.code, 75)
    self.assertEqual(
        f'{ended.exception}', f'SIGTERM: stopped; the same command {message}')

  @parameterized.parameters(
      (True, None, True), (True, '/somewhere', False), (False, None, False))
  def test_says_so_where_nothing_is_kept(self, is_random, output, said):
    class Stop(Exception):
      pass

    workdir = pathlib.Path(tempfile.mkdtemp())
    (workdir / 'checkpoints').mkdir()
    with flagsaver.flagsaver(
        checkpoint='random' if is_random else f'{workdir}', output=output,
        config='configs/quickstart.py' if is_random else None
    ), mock.patch.object(
            evaluate, '_initialise', side_effect=Stop), mock.patch.object(
                evaluate, '_restore', side_effect=Stop), (
                    contextlib.redirect_stdout(io.StringIO())) as out:
      with self.assertRaises(Stop):
        evaluate.main([])
    self.assertEqual('without --output nothing is written' in out.getvalue(),
                     said)

  def test_a_workdir(self):
    """Even one that was imported."""
    workdir = tempfile.mkdtemp()
    golden = pathlib.Path(__file__).parent / 'golden'
    deepmind_workdir.import_checkpoint(
        str(golden / 'dm_tiny_checkpoint.pkl'), workdir)
    with flagsaver.flagsaver(
        checkpoint=workdir, protocol=['all']), contextlib.redirect_stdout(
            io.StringIO()) as out:
      evaluate.main([], [
          '--config.data=fake:64', '--config.test_split=test',
          '--config.test_image_size=32', '--config.evaluate_batch_size=32',
          '--config.linear.batch_size=128', '--config.logistic.num_values=2',
          "--config.semi_supervised.batch_size=3",
          '--config.finetune.batch_size=128'])
    made = {path.name for path in (
        pathlib.Path(workdir) / 'evaluations').iterdir()}
    self.assertEqual(made, {
        'knn-fake-64.json', 'logistic-fake-64.json', 'table.md'})
    self.assertIn('step 4', out.getvalue())

  def test_all_that_the_data_allows(self):
    config = evaluate.override(_write_config(), [
        '--config.finetune.batch_size=128'])
    sources = subject.open_sources(config)
    with self.assertLogs('absl', 'INFO') as logs:
      chosen = evaluate._choose_protocols(['all'], config, sources)
    self.assertEqual(chosen, ['knn', 'linear', 'logistic', 'semi_supervised'])
    self.assertIn(
        'finetune is left out: config.finetune.batch_size is 128, expected at '
        'most the 64 images', '\n'.join(logs.output))


class CheckTest(parameterized.TestCase):
  """What cannot run is said before anything does, of 64 images."""

  def _check(self, name, fields):
    config = evaluate.override(_write_config(), [])
    config.semi_supervised.batch_size = 32
    for field, value in fields.items():
      config_lib.set_field(config, field, value)
    protocols.get(name).check(config, subject.open_sources(config))

  @parameterized.parameters(
      ('linear', {'linear.base_learning_rates': ()},
       'config.linear.base_learning_rates is empty'),
      ('logistic', {'logistic.l2_range': (1e-6,)},
       r'l2_range is \(1e-06,\), expected two positive numbers, rising'),
      ('linear', {'linear.held_out_share': 0.999},
       "held_out_share is 0.999, and of the 64 images of 'train' that leaves "
       'none to fit on'),
      ('logistic', {'data': 'fake:1'},
       "of the 1 images of 'train' that leaves none to choose settings on"),
      ('semi_supervised', {'semi_supervised.shares': (0.1, 0.0)},
       r'shares is \(0.1, 0.0\), expected each in \(0, 1\]'),
      ('semi_supervised', {'semi_supervised.shares': (0.1, 1.0)},
       "shares has 1.0: of 'train' nothing is left to choose on"))
  def test_slips(self, name, fields, message):
    with self.assertRaisesRegex(config_lib.ConfigError, message) as error:
      self._check(name, fields)
    self.assertNotIn('\n', str(error.exception))

  @parameterized.parameters(
      ('linear', {'linear.held_out_share': 0.999,
                  'linear.base_learning_rates': (0.1,)}),
      ('linear', {'linear.held_out_share': 0.0, 'valid_split': 'test'}),
      ('logistic', {'data': 'fake:2'}),
      ('semi_supervised', {'semi_supervised.shares': (1.0,),
                           'semi_supervised.num_epochs': (3,),
                           'semi_supervised.learning_rates': (0.1,)}),
      ('semi_supervised', {'semi_supervised.shares': (1.0,),
                           'valid_split': 'test'}))
  def test_what_can_run(self, name, fields):
    self._check(name, fields)

  def test_lists_are_named(self):
    config = config_lib.get_base_config()
    describe = protocols.get('semi_supervised').describe
    self.assertEqual(
        describe(config, {}), 'fine-tuned on 1 and 10 % of labels, best of 5 '
        'learning rates and 2 lengths')
    config.semi_supervised.subsets = ('~/lists/1percent.txt', 'mine.txt')
    self.assertEqual(
        describe(config, {}), 'fine-tuned on the labels listed in '
        '1percent.txt and mine.txt, best of 5 learning rates and 2 lengths')

  def test_labels_are_counted(self):
    path = pathlib.Path(tempfile.mkdtemp()) / 'list.txt'
    path.write_text('5\n9\n33\n')
    config = evaluate.override(_write_config(), [])
    config.semi_supervised.update(
        shares=(0.01,), subsets=(str(path),), batch_size=32)
    chosen = []

    class Classifier:
      """Learns its choice by heart."""

      def __init__(self, subject, momentum):
        del subject, momentum

      def fit(self, source, index, **settings):
        chosen.append(index.tolist())
        return settings

      def score(self, variables, source, index=None):
        return np.eye(10), np.arange(10)

    with mock.patch.object(classifier, 'Classifier', Classifier):
      metrics = dict(protocols.get('semi_supervised').run(subject.Subject(
          config, None, None, subject.open_sources(config), None)))
    self.assertEqual(chosen[0], [5, 9, 33])
    self.assertEqual(metrics['semi_supervised/1pct_num_labels'], 3)


class OverrideTest(parameterized.TestCase):

  def test_takes_its_arguments_and_leaves_the_rest(self):
    argv = ['evaluate', '--config.knn.k=3', '--checkpoint=x', '--config=y',
            '--config.seed=1']
    self.assertEqual(
        evaluate.take_overrides(argv),
        ['--config.knn.k=3', '--config.seed=1'])
    self.assertEqual(argv, ['evaluate', '--checkpoint=x', '--config=y'])

  def test_values_have_the_types_of_their_fields(self):
    config = evaluate.override(config_lib.get_base_config(), [
        '--config.knn.k=20', '--config.knn.temperature=1',
        '--config.data=folder:/a=b', '--config.test_image_size=64',
        '--config.linear.augment=false',
        '--config.linear.base_learning_rates=(0.1,0.2)'])
    self.assertEqual(config.knn.k, 20)
    self.assertEqual(config.knn.temperature, 1.0)
    self.assertEqual(config.data, 'folder:/a=b')
    self.assertEqual(config.test_image_size, 64)
    self.assertIs(config.linear.augment, False)
    self.assertEqual(config.linear.base_learning_rates, (0.1, 0.2))

  def test_of_a_file(self):
    config = evaluate.override(_write_config(), ['--config.seed=5'])
    self.assertEqual((config.seed, config.image_size), (5, 8))

  @parameterized.parameters(
      ('--config.knn.kk=3',
       r'^unknown config field knn.kk: did you mean knn.k\?'),
      ('--config.knn=3', r'^unknown config field knn: did you mean knn.k\?'),
      ('--config.nothing=3',
       '^unknown config field nothing: byol_jax/config.py lists the fields'),
      ('--config.knn.k=many', 'many'), ('--config.knn.k', 'equals sign'))
  def test_slips(self, argument, words):
    with self.assertRaisesRegex(config_lib.ConfigError, words):
      evaluate.override(config_lib.get_base_config(), [argument])

  @parameterized.parameters(
      'encoder', 'resnet.width', 'image_size', 'projector.depth', 'base_tau')
  def test_what_the_checkpoint_has_fixed(self, name):
    original = config_lib.get_base_config()
    config = original.copy_and_resolve_references()
    old = config_lib.flatten(config.to_dict())[name]
    config_lib.set_field(
        config, name, 'resnet18' if name == 'encoder' else old / 2 if (
            isinstance(old, float)) else old + 1)
    with self.assertRaisesRegex(
        config_lib.ConfigError, f'config.{name} belongs to the checkpoint'):
      evaluate.check_overridden(original, config)

  def test_what_an_evaluation_may_change(self):
    original = config_lib.get_base_config()
    config = evaluate.override(original.copy_and_resolve_references(), [
        '--config.knn.k=20', '--config.data=fake', '--config.seed=3',
        '--config.linear.num_epochs=1', '--config.test_split=test'])
    evaluate.check_overridden(original, config)


if __name__ == '__main__':
  absltest.main()

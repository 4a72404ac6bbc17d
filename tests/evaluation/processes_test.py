"""Evaluations in real processes: two with two devices each, as one with four.

Where a figure counts examples or pixels, the same ones are counted but for
those that rounding puts on the other side; errors agree to 1e-4, after three
steps of learning that make more of it.
"""

import json
import os
import pathlib
import re
import signal
import textwrap
import time

from absl import flags
from absl.testing import flagsaver
import numpy as np
import pytest

from byol_jax import evaluate
from byol_jax.data import arrays
from byol_jax.data import dense_scenes
from tests import processes

CONFIG = '''
    from byol_jax import config as config_lib


    def get_config(norm='batch'):
      config = config_lib.get_base_config()
      config.data, config.test_split = 'fake:60', 'test'
      config.image_size, config.test_crop_ratio = 8, 1.0
      config.encoder = 'resnet10'
      config.resnet.update(width=1 / 16, stem='cifar')
      config.encoder_norm = config.projector_norm = norm
      config.predictor_norm = norm
      config.projector.update(hidden_size=8, output_size=8)
      config.predictor.hidden_size = 8
      config.batch_size, config.evaluate_batch_size = 16, 32
      config.total_steps, config.warmup_steps = 3, 1
      config.log_every_steps = config.evaluate_every_steps = 3
      config.checkpoint_every_steps = 3
      config.final_protocols = ('knn', 'linear')
      config.knn.k = 5
      config.linear.update(
          augment=True, num_epochs=2, batch_size=16,
          base_learning_rates=(0.4, 0.1))
      config.logistic.num_values = 2
      config.semi_supervised.update(
          shares=(0.2,), num_epochs=(2,), learning_rates=(0.1, 0.01),
          batch_size=8)
      config.finetune.update(
          num_steps=3, batch_size=16, learning_rates=(0.1, 0.01),
          weight_decays=(0.0,))
      for name in ('segmentation', 'depth'):
        config[name].update(
            num_steps=3, batch_size=4, evaluate_batch_size=4,
            learning_rates=(0.03, 0.01))
      config.segmentation.update(
          crop_size=33, head_channels=8, head_dilation=1,
          freeze_encoder=(False, True))
      config.depth.update(
          head_channels=(8,), scale=1.0, crop_height=32, crop_width=32)
      return config
'''
# Together of all protocols that a list of pictures with labels allows.
LABELS = ['--protocol=knn,linear,logistic,semi_supervised,finetune']
MAPS = ['--protocol=segmentation,depth', '--config.test_split=test']
AGAIN = 75
# Its lines, and what is left of one in which another was written.
_GLOO = (
    r'(\[Gloo\]|Rank|is connected to|peer ranks\.|'
    r'Expected number of connected peer ranks is :|[\d\s])*')


@pytest.fixture(scope='module')
def config_path(tmp_path_factory):
  path = tmp_path_factory.mktemp('config') / 'tiny.py'
  path.write_text(textwrap.dedent(CONFIG))
  return path


@pytest.fixture(autouse=True)
def parsed_flags():
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['test'])


def _command(*arguments, job='evaluate'):
  return ['-m', f'byol_jax.{job}', *map(str, arguments)]


def _figures(output):
  """By protocol, of all that a run has written."""
  return {path.name: json.loads(path.read_text())['metrics']
          for path in (pathlib.Path(output) / 'evaluations').glob('*.json')}


def _check_equal(found, expected, *, num_counted):
  """All figures but errors are of so many examples or pixels."""
  assert found.keys() == expected.keys() and found
  for name, metrics in found.items():
    assert metrics.keys() == expected[name].keys()
    for key, value in metrics.items():
      atol = 2.1 / num_counted if 'test_' in key and not key.endswith(
          ('rms', 'rel')) else 1e-7
      np.testing.assert_allclose(
          value, expected[name][key], rtol=1e-4, atol=atol, err_msg=key)


def _check_ended(done, code=0):
  assert [p.code for p in done] == [code] * len(done), '\n'.join(
      f'{p.out}\n{p.err}' for p in done)


def _run_both(tmp_path, *arguments, job='evaluate', output='--output'):
  """The same command by one process and by two; what each has written."""
  places = []
  for count in 1, 2:
    places.append(tmp_path / f'of{count}')
    done = processes.run(
        _command(*arguments, f'{output}={places[-1]}', job=job),
        tmp_path / f'said{count}', count=count, devices=4 // count,
        timeout=300)
    _check_ended(done)
    if count == 2:
      _check_said_once(done, places[-1])
  return places


def _check_said_once(done, output):
  """The first process speaks for all, and nothing unfinished is left.

  But for Gloo, whose threads write into each other's lines.
  """
  said = [line for text in done[1][1:] for line in text.splitlines()
          if not re.fullmatch(_GLOO, line)]
  assert not said, said
  assert not [path for path in output.rglob('*')
              if path.name == 'unfinished' or path.name.startswith(
                  ('.shared', '.knn', '.table'))]


def test_two_processes_give_the_figures_of_one(tmp_path, config_path):
  """Of a network whose first state is made over all processes."""
  given = {'checkpoint': 'random', 'config': f'{config_path}:affine_init',
           'output': f'{tmp_path}/of1'}
  names = ['knn', 'linear', 'logistic']
  with flagsaver.flagsaver(**given, protocol=names):
    evaluate.main([])
  given |= {'output': f'{tmp_path}/of2', 'protocol': ','.join(names)}
  done = processes.run(
      _command(*(f'--{name}={value}' for name, value in given.items())),
      tmp_path / 'said')
  _check_ended(done)
  _check_said_once(done, tmp_path / 'of2')
  one, two = _figures(tmp_path / 'of1'), _figures(tmp_path / 'of2')
  assert len(two) == 3
  _check_equal(two, one, num_counted=60)


@pytest.mark.slow
def test_who_has_another_command_is_named(tmp_path, config_path):
  script = (
      "import sys; sys.argv += ['--config.knn.k=7'] * ('--process_id=1' in "
      "sys.argv); import runpy; "
      "runpy.run_module('byol_jax.evaluate', run_name='__main__')")
  with processes.start(
      ['-c', script, '--checkpoint=random', f'--config={config_path}'],
      tmp_path, devices=1) as started:
    done = processes.wait(started, 100)
  _check_ended(done, 1)
  for process in done:
    error, = (line for line in process.err.splitlines() if 'error: ' in line)
    assert 'the command of process 1 differs from that of process 0' in error


@pytest.mark.slow
def test_all_protocols_of_labels(tmp_path, config_path):
  one, two = _run_both(
      tmp_path, '--checkpoint=random', f'--config={config_path}', *LABELS)
  assert len(_figures(two)) == 5
  _check_equal(_figures(two), _figures(one), num_counted=60)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
  """Seven to measure: the last process has less to do than the first."""
  path = tmp_path_factory.mktemp('scenes')
  pictures = dense_scenes.Pictures(arrays.create_fake_source('', 'train', 32))
  dense_scenes.write_scenes(
      str(path), train=pictures, test=pictures, num_unlabelled=1,
      num_train=12, num_test=7, height=32, width=64)
  return f'pairs:{path}'


@pytest.mark.slow
def test_protocols_of_maps(tmp_path, config_path, scenes):
  one, two = _run_both(
      tmp_path, '--checkpoint=random', f'--config={config_path}', *MAPS,
      f'--data={scenes}')
  assert len(_figures(two)) == 2
  _check_equal(_figures(two), _figures(one), num_counted=7 * 32 * 32)


@pytest.mark.slow
def test_a_run_of_two_with_its_final_evaluation(tmp_path, config_path):
  one, two = _run_both(
      tmp_path, f'--config={config_path}', job='pretrain', output='--workdir')
  _check_equal(_figures(two), _figures(one), num_counted=60)
  for file in ('result.json', 'report.html', 'neighbors.npz'):
    assert (two / file).stat().st_size
  done = processes.run(
      _command(f'--checkpoint={two}', '--protocol=all'), tmp_path / 'said',
      timeout=200)
  _check_ended(done)
  assert len(_figures(two)) >= 5


@pytest.mark.slow
@pytest.mark.parametrize('asked', [0, 1])
def test_stopped_it_goes_on(tmp_path, config_path, asked):
  """Whichever of the processes the signal reaches."""
  arguments = _command(
      '--checkpoint=random', f'--config={config_path}', *LABELS,
      f'--output={tmp_path}/stopped')
  with processes.start(arguments, tmp_path / 'said') as started:
    deadline = time.monotonic() + 150
    while '1 of 2 choices' not in started[0].read()[1]:
      assert started[0].poll() is None and time.monotonic() < deadline
      time.sleep(0.1)
    os.kill(started[asked].pid, signal.SIGTERM)
    done = processes.wait(started, 60)
  _check_ended(done, AGAIN)
  assert 'the same command goes on where this one was' in done[asked].out
  assert f'process {asked} (' in done[1 - asked].err
  kept = list((tmp_path / 'stopped/evaluations/unfinished').rglob('*.npz'))
  assert any(path.name == 'choice0.npz' for path in kept), kept
  # The second process has lost what it kept: the first one's counts.
  for path in kept:
    if path.parent.name == 'process1':
      path.unlink()
  done = processes.run(arguments, tmp_path / 'again', timeout=200)
  _check_ended(done)
  assert 'step 1 of 8' not in done[0].err  # linear was done
  undisturbed = tmp_path / 'undisturbed'
  _check_ended(processes.run(
      [*arguments[:-1], f'--output={undisturbed}'], tmp_path / 'said2',
      timeout=200))
  assert _figures(tmp_path / 'stopped') == _figures(undisturbed)

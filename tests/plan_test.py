"""The job as it is typed: without libtpu, with it, and on slips."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from byol_jax.planning import chips
from byol_jax.planning import libtpu

ROOT = pathlib.Path(__file__).parents[1]

_WITHOUT_LIBTPU = '''
import runpy
from byol_jax.planning import libtpu
libtpu.version = lambda: None
runpy.run_module('byol_jax.plan', run_name='__main__')
'''
_SMALL = (
    '--config=configs/quickstart.py', '--config.resnet.width=0.125',
    '--config.projector.hidden_size=16', '--config.predictor.hidden_size=16')


def _run(command, *arguments, cache):
  # As a user's: no more devices and no other compiler than there are.
  environment = {
      k: v for k, v in os.environ.items()
      if not k.startswith(('JAX_', 'XLA_', 'TPU_'))}
  return subprocess.run(
      [sys.executable, *command, *arguments], cwd=ROOT, capture_output=True,
      text=True, env=environment | {'XDG_CACHE_HOME': str(cache)},
      timeout=600, check=False)


def _plan(*arguments, cache):
  return _run(('-m', 'byol_jax.plan'), *arguments, cache=cache)


def test_without_libtpu(tmp_path):
  done = _run(
      ('-c', _WITHOUT_LIBTPU), '--config=configs/imagenet_resnet50.py',
      '--topology=v3:16x16,v6e:8x8', f'--json={tmp_path}/plan.json',
      cache=tmp_path)
  assert done.returncode == 0, done.stderr
  assert 'libtpu is not installed' in done.stdout
  assert 'nothing was compiled' in done.stdout
  v3, v6e = json.loads((tmp_path / 'plan.json').read_text())['slices']
  assert v3['fits'] is None and not v3['compiled']
  assert (v3['devices'], v3['device_batch_size']) == (512, 8)
  assert (v6e['devices'], v6e['device_batch_size']) == (64, 64)
  # Eight forward passes of 4.09 G multiply-adds, less those on padding; 1000
  # epochs of 1 281 167.
  assert v3['flops_per_image'] == pytest.approx(
      8 * 2 * 0.965 * 4.09e9, rel=0.01)
  assert v3['total_steps'] == 1000 * 1_281_167 // 4096
  assert v3['floor']['arithmetic'] == pytest.approx(
      8 * v3['flops_per_image'] / 61.5e12)
  assert v3['at_floor']['hours'] == pytest.approx(
      v3['total_steps'] * v3['floor']['arithmetic'] / 3600)


@pytest.mark.parametrize('arguments, message', [
    (['--topology=v9:2x2'], 'no such chip; known are v2, v3'),
    (['--topology=v4:2x2'], 'v4 has 3 dimensions, as v4:2x2x2'),
    (['--topology='], '--topology names no slice'),
    ([], 'topology'),
    (['--topology=v5e:8x8', '--batch_size=100'],
     'on v5e:8x8: config.batch_size is 100, expected a multiple of 64'),
    (['--topology=v5e:8x8', '--batch_size=0'], 'batch_size'),
    (['--topology=v5e:8x8', '--config.data=folder:/no/where'],
     'give --num_examples'),
    (['--topology=v5e:8x8', '--config.encoder=vgg'], 'expected one of'),
    (['--topology=v5e:8x8', '--utilisation=1.5'], 'utilisation'),
    (['--topology=v5e:8x8', '--json=/no/where.json'], 'cannot be written'),
    (['--topology=v5e:8x8', '--batch_size=640000'], 'the run has 0 steps'),
])
def test_slips_end_in_one_line(arguments, message, tmp_path):
  done = _plan('--config=configs/quickstart.py', *arguments, cache=tmp_path)
  assert done.returncode == 1, done.stderr
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith('error: ') and message in line
  assert not done.stdout


def test_a_search_needs_a_compiler(tmp_path):
  done = _run(
      ('-c', _WITHOUT_LIBTPU), *_SMALL, '--topology=v5e:1x1', '--search',
      cache=tmp_path)
  assert done.returncode == 1
  assert 'error: --search compiles, and libtpu is not installed' in done.stderr


needs_libtpu = pytest.mark.skipif(
    libtpu.version() is None,
    reason="libtpu is not installed: pip install -e '.[plan]'")


@pytest.mark.slow
@needs_libtpu
def test_compiles_for_slices_that_are_not_there(tmp_path):
  """Twice: the second time, what the first has found is read."""
  arguments = (*_SMALL, '--topology=v4:2x2x1,v3:2x2,v5e:1x1')
  first, second = (
      _plan(*arguments, f'--json={tmp_path}/{i}.json', cache=tmp_path)
      for i in range(2))
  assert first.returncode == second.returncode == 0, first.stderr
  assert 'compiling the step for v3:2x2' in first.stderr
  assert 'compiling' not in second.stderr
  assert second.stdout.count('remembered since') == 3
  plans = [json.loads((tmp_path / f'{i}.json').read_text()) for i in range(2)]
  assert plans[0] == plans[1]
  v4, v3, v5e = plans[0]['slices']
  for figures in v4, v3, v5e:
    assert figures['fits'] and figures['compiled']
    chip = chips.CHIPS[figures['topology'].split(':')[0]]
    assert figures['memory']['limit_bytes'] == pytest.approx(
        chip.usable_bytes, rel=0.01)
    assert figures['memory']['state_bytes'] >= figures['state_bytes']
  assert v5e['collectives'] == []
  for figures in v4, v3:
    (reduced,) = figures['collectives']
    assert reduced['kind'] == 'all-reduce'
    assert reduced['result_bytes'] > 1000


@pytest.mark.slow
@needs_libtpu
def test_what_does_not_fit_is_said(tmp_path):
  done = _plan(
      *_SMALL, '--topology=v2:2x2', '--config.image_size=512',
      '--batch_size=16384', '--num_examples=10000000', cache=tmp_path)
  assert done.returncode == 0, done.stderr
  assert 'v2:2x2: refused by libtpu' in done.stdout
  assert 'NO' in done.stdout and '  peak' in done.stdout

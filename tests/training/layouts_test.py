"""One run, whatever the processes and devices that its batches are spread over.

Four devices: in one process, in two, in four. See `byol_jax/all_reduce.py`.
"""

import json
import pathlib
import signal
import time

import chex
import pytest

from byol_jax import stopping
from byol_jax.training import saved_run
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
LAYOUTS = {'1x4': (1, 4), '2x2': (2, 2), '4x1': (4, 1)}


def _start(workdir, layout, *flags, job=('-m', 'byol_jax.pretrain')):
  count, devices = LAYOUTS[layout]
  return processes.start(
      [*job, f'--config={ROOT}/configs/quickstart.py',
       f'--workdir={workdir}', '--config.data=fake:256',
       '--config.resnet.width=0.0625', '--config.batch_size=32',
       '--config.total_steps=20', '--config.warmup_steps=5',
       '--config.checkpoint_every_steps=100',
       '--config.evaluate_every_steps=20', '--config.log_every_steps=1',
       '--config.evaluate_batch_size=64', '--config.final_protocols=()',
       *flags],
      f'{workdir}.output', count=count, devices=devices,
      environment={'PYTHONPATH': str(ROOT)})


def _run(workdir, layout, *flags, **kwargs):
  with _start(workdir, layout, *flags, **kwargs) as started:
    done = processes.wait(started, timeout=600)
  for number, (code, out, err) in enumerate(done):
    assert code == 0, f'process {number}: {out}{err}'
  # One of them writes and logs.
  assert all('loss' not in out for _, out, _ in done[1:])


def _run_and_stop(workdir, layout, *flags, **kwargs):
  """SIGTERM reaches the last process alone, after some step."""
  with _start(workdir, layout, *flags, **kwargs) as started:
    rows = workdir / 'metrics.jsonl'
    while not (rows.exists() and rows.read_text()):
      assert all(process.poll() is None for process in started)
      time.sleep(0.01)
    started[-1].send_signal(signal.SIGTERM)
    done = processes.wait(started, timeout=600)
  assert [code for code, *_ in done] == [stopping.RUN_AGAIN] * len(done), done
  (step,) = (path.name for path in (workdir / 'checkpoints').iterdir())
  for _, out, _ in done:  # the same step in all of them
    assert f'stopped after step {step}, saved; run the same command' in out
  return int(step)


def _losses(workdir):
  rows = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [row['train/loss'] for row in rows if 'train/loss' in row]


def _assert_same(workdir, other):
  """To the bit."""
  losses = _losses(workdir)
  assert len(set(losses)) == 20
  assert losses == _losses(other)
  a, b = (saved_run.restore(str(path))[2] for path in (workdir, other))
  assert a.step == b.step == 20
  chex.assert_trees_all_equal(a, b)


@pytest.fixture(scope='module')
def expected(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('layouts') / '1x4'
  _run(workdir, '1x4')
  return workdir


_IN_SHARES = '''
import runpy
from byol_jax.training import sharding
sharding._FEW, sharding._TILE_ROWS = 64, 1  # small kernels, too
runpy.run_module('byol_jax.pretrain', run_name='__main__')
'''


def _share(in_shares):
  """Flags and job of a run; SGD asks for no norm, whose order would differ."""
  return ([f'--config.shard_state={in_shares}'],
          {'job': ('-c', _IN_SHARES)} if in_shares else {})


def _says_that_it_shares(workdir):
  return 'large arrays in shares over 2 devices' in (
      workdir.with_name(f'{workdir.name}.output') / 'process0.out').read_text()


@pytest.mark.parametrize(
    'in_shares', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_stopped_in_two_processes_and_continued_in_one(
    expected, tmp_path, in_shares):
  """One of two is told to stop; both do, after the same step."""
  flags, kwargs = _share(in_shares)
  step = _run_and_stop(tmp_path / 'run', '2x2', *flags, **kwargs)
  assert 0 < step < 20
  assert _says_that_it_shares(tmp_path / 'run') == in_shares
  losses = _losses(tmp_path / 'run')
  assert losses == _losses(expected)[:len(losses)]
  _run(tmp_path / 'run', '1x4', *flags, **kwargs)
  _assert_same(tmp_path / 'run', expected)


@pytest.mark.slow
def test_compiled_as_users_do(tmp_path, monkeypatch):
  """Without the suite's flags, whose programs are others."""
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  for layout in ('1x4', '2x2'):
    _run(tmp_path / layout, layout)
  _assert_same(tmp_path / '2x2', tmp_path / '1x4')


@pytest.mark.slow
@pytest.mark.parametrize(('layout', 'in_shares'), [
    ('2x2', False), ('2x2', True), ('4x1', False)])
def test_each_layout_to_its_end(expected, tmp_path, layout, in_shares):
  flags, kwargs = _share(in_shares)
  _run(tmp_path / 'run', layout, *flags, **kwargs)
  assert _says_that_it_shares(tmp_path / 'run') == in_shares
  _assert_same(tmp_path / 'run', expected)


@pytest.mark.slow
def test_stopped_in_one_process_and_continued_in_four(expected, tmp_path):
  _run_and_stop(tmp_path / 'run', '1x4')
  _run(tmp_path / 'run', '4x1')
  _assert_same(tmp_path / 'run', expected)


@pytest.mark.slow
@pytest.mark.parametrize('in_shares', [False, True])
def test_micro_batches_from_the_compilation_cache(tmp_path, in_shares):
  """The second start would hang or crash, see `all_reduce.psum_after`."""
  flags, kwargs = _share(in_shares)
  flags += ['--config.accumulation_steps=4',
            f'--compilation_cache={tmp_path}/compiled']
  for name, layout in (('cold', '1x4'), ('warm', '1x4'), ('other', '2x2')):
    _run(tmp_path / name, layout, *flags, **kwargs)
    said = (tmp_path / f'{name}.output' / 'process0.out').read_text()
    assert ('large arrays in shares' in said) == in_shares
    _assert_same(tmp_path / name, tmp_path / 'cold')
    compiled = set((tmp_path / 'compiled').rglob('*-cache'))
    if name == 'cold':
      first = compiled
      assert first
    elif name == 'warm':
      assert compiled == first

"""launch/gpu_node.sh, among fakes of nvidia-smi and python."""

import pathlib
import shlex
import signal
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / 'launch' / 'gpu_node.sh'
JOB = ('byol_jax.pretrain', '--config=configs/quickstart.py',
       '--workdir=my runs')
GPUS = '0, NVIDIA A100-SXM4-80GB, 81920 MiB\n'


@pytest.fixture
def node(fakes, environment, tmp_path):
  """Runs the script on a machine with a GPU."""
  fakes.add('nvidia-smi', 'python')

  def run(*arguments, code=0, out=GPUS, smi=0, **others):
    fakes.answer('nvidia-smi', out=out, code=smi, times=-1)
    return fakes.run(
        SCRIPT, *arguments, cwd=tmp_path, code=code, **environment, **others)

  return run


def test_one_process_with_what_is_visible(fakes, node):
  _, err = node(*JOB, CUDA_VISIBLE_DEVICES='2,3')
  assert fakes.calls('python') == [['python', '-m', *JOB]]
  environment = fakes.environment('python')
  assert environment['CUDA_VISIBLE_DEVICES'] == '2,3'
  # Without a GPU that works it ends, instead of going on by the CPU.
  assert environment['JAX_PLATFORMS'] == 'cuda,cpu'
  assert environment['PYTHONPATH'].split(':')[0] == str(ROOT)
  assert GPUS in err and 'CUDA_VISIBLE_DEVICES=2,3' in err


def test_goes_on_when_cut_short(fakes, node):
  fakes.answer('python', code=75)
  fakes.answer('python', code=-9)
  _, err = node(*JOB)
  assert len(fakes.calls('python')) == 3
  assert 'was killed by signal 9 (KILL)' in err
  assert 'starting it again, restart 2 of 3' in err


@pytest.mark.parametrize('code, starts', [(1, 1), (75, 2)])
def test_how_often(fakes, node, code, starts):
  fakes.answer('python', code=code, times=-1)
  node('--restarts=1', *JOB, code=code)
  assert len(fakes.calls('python')) == starts


def test_a_signal_is_passed_on(fakes, environment, tmp_path):
  fakes.add('nvidia-smi', 'python')
  fakes.answer('nvidia-smi', out=GPUS)
  fakes.answer('python', run=['/bin/bash', '-c', f'''
trap 'exit 75' TERM
touch "{tmp_path}/ready"
for i in {{1..200}}; do sleep 0.05; done'''])
  process = fakes.start(SCRIPT, *JOB, cwd=tmp_path, **environment)
  until = time.monotonic() + 30
  while not (tmp_path / 'ready').exists():
    assert time.monotonic() < until
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=20)
  assert process.returncode == 75
  assert len(fakes.calls('python')) == 1


@pytest.mark.parametrize('smi, others, said', [
    (dict(smi=9, out='No devices were found\n'), {},
     'error: nvidia-smi failed (No devices were found)'),
    (dict(out=''), {}, 'error: nvidia-smi lists no GPU'),
    ({}, dict(CUDA_VISIBLE_DEVICES=''),
     'error: CUDA_VISIBLE_DEVICES is empty')])
def test_a_machine_without_gpus_is_refused(fakes, node, smi, others, said):
  _, err = node(*JOB, code=1, **smi, **others)
  (line,) = err.splitlines()
  assert line.startswith(said)
  assert not fakes.calls('python')


def test_dry_run(fakes, node):
  out, err = node('--dry_run', *JOB)
  assert not err and not fakes.calls()
  smi, enter, job = map(shlex.split, out.splitlines())
  assert smi[0] == 'nvidia-smi'
  assert enter == ['source', str(ROOT / 'launch' / 'environment.sh'), 'cuda']
  assert job == ['env', 'JAX_PLATFORMS=cuda,cpu', 'python', '-m', *JOB]


def test_a_slip_is_refused(fakes, node):
  for arguments, said in (
      ((), 'error: no job'),
      (('--gpus=2', *JOB), "error: unexpected argument '--gpus=2' before"),
      (('--restarts=-1', *JOB), "error: --restarts is '-1', expected")):
    _, err = node(*arguments, code=1)
    (line,) = err.splitlines()
    assert line.startswith(said)
  assert not fakes.calls()

"""launch/slurm.sbatch, among fakes of srun, scontrol and python."""

import os
import pathlib
import shlex
import signal
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / 'launch' / 'slurm.sbatch'
JOB = ('byol_jax.pretrain', '--config=configs/quickstart.py',
       '--workdir=my runs')

# Runs the step's command as one task, as srun would.
ONE_TASK = ['/bin/bash', '-c', '''
while [[ $1 == --* ]]; do shift; done
exec "$@"''', 'srun']


@pytest.fixture
def slurm(fakes, environment, tmp_path):
  """Runs the script as a job of Slurm, from a copy as Slurm does."""
  fakes.add('srun', 'scontrol', 'python')
  copy = tmp_path / 'slurm_script'
  copy.write_text(SCRIPT.read_text())

  def variables(**others):
    return environment | {
        'SLURM_JOB_ID': '77', 'SLURM_SUBMIT_DIR': str(ROOT),
        'SLURM_GPUS_ON_NODE': '4', 'SLURM_CPUS_ON_NODE': '96'} | others

  def run(*arguments, code=0, **others):
    return fakes.run('bash', copy, *arguments, cwd='/', code=code,
                     **variables(**others))

  run.start = lambda *arguments: fakes.start(
      'bash', copy, *arguments, cwd='/', **variables())
  return run


def test_one_process_a_node_has_all_its_gpus_and_cpus(fakes, slurm):
  fakes.answer('srun', run=ONE_TASK)
  slurm(*JOB)
  (step,) = fakes.calls('srun')
  assert step[1:6] == [
      '--ntasks-per-node=1', '--cpus-per-task=96', '--kill-on-bad-exit=0',
      '--wait=600', '--label']
  (job,) = fakes.calls('python')
  assert job == ['python', '-m', *JOB]
  environment = fakes.environment('python')
  assert environment['JAX_LOCAL_DEVICE_IDS'] == '0,1,2,3'
  assert environment['JAX_PLATFORMS'] == 'cuda,cpu'
  assert not fakes.calls('scontrol')


@pytest.mark.parametrize('code', [75, -9, -6])
def test_queued_again_when_cut_short(fakes, slurm, code):
  fakes.answer('srun', run=ONE_TASK)
  fakes.answer('python', code=code)
  expected = code if code > 0 else 128 - code
  _, err = slurm(*JOB, code=expected, SLURM_RESTART_COUNT='2')
  assert fakes.calls('scontrol') == [['scontrol', 'requeue', '77']]
  assert f'left with code {expected}, and is queued again, time 3 of 50' in err


def test_an_error_is_not_queued_again_though_others_leave_with_75(fakes, slurm):
  # Of the codes of tasks, srun returns the highest.
  two_tasks = ['/bin/bash', '-c', '''
while [[ $1 == --* ]]; do shift; done
"$@"; one=$?
"$@"; two=$?
exit $((one > two ? one : two))''', 'srun']
  fakes.answer('srun', run=two_tasks)
  fakes.answer('python', code=75)
  fakes.answer('python', code=1, err='error: no such thing\n')
  _, err = slurm(*JOB, code=1)
  assert not fakes.calls('scontrol')
  assert 'error: no such thing' in err and 'not queued again: an error' in err


def test_the_limit(fakes, slurm):
  fakes.answer('srun', code=75, times=-1)
  _, err = slurm('--requeues=3', *JOB, code=75, SLURM_RESTART_COUNT='3')
  assert not fakes.calls('scontrol')
  assert 'not queued again: it was, 3 times (--requeues)' in err
  slurm('--requeues=3', *JOB, code=75, SLURM_RESTART_COUNT='2')
  assert fakes.calls('scontrol')


def test_what_slurm_itself_refuses_is_not_queued_again(fakes, slurm):
  fakes.answer('srun', code=1)
  _, err = slurm(*JOB, code=1)
  assert 'srun left with code 1' in err and not fakes.calls('scontrol')


def test_scancel_is_final(fakes, slurm, tmp_path):
  ready = tmp_path / 'ready'
  fakes.answer('srun', run=['/bin/bash', '-c', f'''
trap 'exit 75' TERM
touch "{ready}"
for i in {{1..200}}; do sleep 0.05; done'''])
  process = slurm.start(*JOB)
  until = time.monotonic() + 30
  while not ready.exists():
    assert time.monotonic() < until
    time.sleep(0.02)
  os.kill(process.pid, signal.SIGTERM)
  # Slurm signals all; the step has not left yet when the script hears of it.
  time.sleep(0.1)
  assert process.poll() is None
  children = pathlib.Path(
      f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
  os.kill(int(children[0]), signal.SIGTERM)
  _, err = process.communicate(timeout=20)
  assert process.returncode == 75
  assert err == 'cancelled; the job left with code 75\n'
  assert not fakes.calls('scontrol')


def test_a_task_outlives_the_signal_that_its_job_obeys(
    fakes, slurm, tmp_path):
  """Slurm signals every process of a task, its shell too."""
  ready = tmp_path / 'ready'
  fakes.answer('srun', run=['/bin/bash', '-c', f'''
while [[ $1 == --* ]]; do shift; done
set -m
"$@" & task=$!
until [[ -e "{ready}" ]]; do sleep 0.02; done
kill -TERM -- -$task
wait $task''', 'srun'])
  fakes.answer('python', run=['/bin/bash', '-c', f'''
trap 'sleep 0.2; exit 75' TERM
touch "{ready}"
for i in {{1..200}}; do sleep 0.05; done'''])
  slurm(*JOB, code=75)
  assert fakes.calls('scontrol')


def test_dry_run(fakes):
  fakes.add('srun', 'scontrol', 'python')
  out, err = fakes.run('bash', SCRIPT, '--dry_run', *JOB, cwd=ROOT)
  assert not err and not fakes.calls()
  enter, devices, step, requeue = map(shlex.split, out.splitlines()[:2] + [
      '\n'.join(out.splitlines()[2:-1]), out.splitlines()[-1]])
  assert enter == ['source', 'launch/environment.sh', 'cuda']
  assert devices == [
      'export', 'JAX_LOCAL_DEVICE_IDS=0', 'JAX_PLATFORMS=cuda,cpu']
  assert step[0] == 'srun' and step[-5:] == ['python', '-m', *JOB]
  assert requeue == ['scontrol', 'requeue', 'JOB_ID']


def test_the_directives(fakes):
  """What sbatch reads; it stops at the first line that is no comment."""
  lines = SCRIPT.read_text().partition('\nset -euo')[0].splitlines()
  assert all(line.startswith('#') for line in lines)
  directives = {line.removeprefix('#SBATCH ') for line in lines
                if line.startswith('#SBATCH')}
  assert {'--requeue', '--open-mode=append', '--ntasks-per-node=1',
          '--signal=TERM@120'} <= directives


@pytest.mark.parametrize('arguments, said', [
    ((), 'error: no job'),
    (('--requeue=3', 'byol_jax.pretrain'),
     "error: unexpected argument '--requeue=3' before the job"),
    (('--requeues=x', 'byol_jax.pretrain'), "error: --requeues is 'x'"),
    (('byol_jax/pretrain.py',), "error: 'byol_jax/pretrain.py' is no job")])
def test_a_slip_is_refused(fakes, slurm, arguments, said):
  _, err = slurm(*arguments, code=1)
  (line,) = err.splitlines()
  assert line.startswith(said)
  assert not fakes.calls()


def test_submitted_from_elsewhere(fakes, slurm, tmp_path):
  _, err = slurm(*JOB, code=1, SLURM_SUBMIT_DIR=str(tmp_path))
  assert "is not the project's folder: submit from there" in err

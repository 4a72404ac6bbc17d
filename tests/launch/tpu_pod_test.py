"""launch/tpu_pod.sh, with a gcloud that notes what it is asked."""

import os
import pathlib
import shlex
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / 'launch' / 'tpu_pod.sh'
JOB = ('byol_jax.pretrain', '--config=configs/quickstart.py',
       '--workdir=gs://bucket/my runs')
SLICE = ('--name=byol', '--zone=us-central2-b', '--project=mine')
WHERE = ['--quiet', '--zone=us-central2-b', '--project=mine']
RUN = ('run', *SLICE, '--accelerator_type=v4-32', '--poll_seconds=0')
SSH = ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 'byol', *WHERE]
ALIVE = ['--ssh-flag=-oServerAliveInterval=30',
         '--ssh-flag=-oServerAliveCountMax=4']
WORKER = 'byol_jax/launch/tpu_worker.sh'
MISSING = dict(code=1, err='ERROR: (gcloud.compute.tpus.tpu-vm.describe) '
               'NOT_FOUND: Resource nodes/byol was not found\n')


class Pod:
  """A slice that is there or not, and a job that ends as it is told."""

  def __init__(self, fakes, tmp_path):
    self._fakes = fakes
    self._cwd = tmp_path
    fakes.add('gcloud')

  def states(self, *states: str | None, kind: str = 'tpu-vm') -> None:
    """What the slice is found to be, one after the other; the last stays."""
    for i, state in enumerate(states):
      times = -1 if i == len(states) - 1 else 1
      answer = MISSING if state is None else dict(out=f'{state}\n')
      self._fakes.answer('gcloud', kind, 'describe', times=times, **answer)

  def outcomes(self, *outcomes: str) -> None:
    """What the hosts say of the job when they are asked, one after the other.
    """
    for outcome in outcomes:
      if outcome == 'no answer':
        self._fakes.answer('gcloud', 'ssh', ' status', code=255)
      else:
        self._fakes.answer('gcloud', 'ssh', ' status', out=''.join(
            f'byol_jax_job: {word}\n' for word in outcome.split(' | ')))

  def run(self, *arguments, code=0):
    return self._fakes.run(SCRIPT, *arguments, cwd=self._cwd, code=code)

  def refuse(self, *arguments) -> str:
    _, err = self.run(*arguments, code=1)
    (line,) = err.splitlines()
    return line

  def did(self) -> list[str]:
    """The calls in one word each."""
    words = []
    for call in self._fakes.calls():
      verb = call[4]
      if verb == 'ssh':
        remote = call[-1].removeprefix('--command=')
        verb = 'unpack' if remote.startswith('rm') else (
            'status' if remote.endswith('status') else remote.split()[2])
      words.append(verb)
    return words


@pytest.fixture
def pod(fakes, tmp_path):
  return Pod(fakes, tmp_path)


DEPLOY = ['scp', 'unpack', 'install', 'start']


def test_created_when_absent_and_run_to_the_end(fakes, pod):
  pod.states(None, 'CREATING', 'READY')
  pod.outcomes('nothing', 'left 0')
  fakes.answer('gcloud', 'follow', out='step 1/2\nstep 2/2\n')
  out, err = pod.run(*RUN, '--spot', *JOB)
  assert out == 'step 1/2\nstep 2/2\n'
  assert 'byol is CREATING; waiting' in err and 'the job is done' in err
  assert 'byol is still there, and costs' in err
  assert pod.did() == [
      'describe', 'create', 'describe', 'describe', 'status', *DEPLOY, 'follow',
      'status']
  assert fakes.calls()[1] == [
      'gcloud', 'compute', 'tpus', 'tpu-vm', 'create', 'byol', *WHERE,
      '--accelerator-type=v4-32', '--version=tpu-ubuntu2204-base', '--spot']


def test_reused_when_there(pod):
  pod.states('READY')
  pod.outcomes('nothing', 'left 0')
  pod.run(*RUN, *JOB)
  assert 'create' not in pod.did()


def test_a_job_that_runs_is_followed_not_started(fakes, pod):
  pod.states('READY')
  pod.outcomes('running', 'running', 'left 0')
  fakes.answer('gcloud', 'follow 1', out='a\nb\n')
  fakes.answer('gcloud', 'follow 3', out='c\n')
  out, _ = pod.run(*RUN, *JOB)
  assert out == 'a\nb\nc\n'  # After a lost connection, what is new.
  assert pod.did() == [
      'describe', 'status', 'follow', 'status', 'follow', 'status']


def test_preempted_twice_then_done(pod):
  pod.states('READY', 'PREEMPTED', 'PREEMPTED', None, 'READY', 'TERMINATED',
             'TERMINATED', None, 'READY')
  pod.outcomes('nothing', 'no answer', 'nothing', 'no answer', 'nothing',
               'left 0')
  _, err = pod.run(*RUN, '--delete_at_end', *JOB)
  again = ['status', *DEPLOY, 'follow', 'status']
  assert pod.did() == [
      'describe', *again, 'describe', 'describe', 'delete', 'describe',
      'create', 'describe', *again, 'describe', 'describe', 'delete',
      'describe', 'create', 'describe', *again, 'delete']
  assert 'byol is gone: PREEMPTED' in err
  assert 'starting it again, restart 2 of 20' in err


def test_a_queued_slice_is_waited_for(fakes, pod):
  pod.states(None, 'WAITING_FOR_RESOURCES', 'WAITING_FOR_RESOURCES',
             'PROVISIONING', 'ACTIVE', kind='queued-resources')
  pod.outcomes('nothing', 'left 0')
  _, err = pod.run(*RUN, '--queued', '--spot', '--delete_at_end', *JOB)
  assert err.count('WAITING_FOR_RESOURCES; waiting') == 1
  queued = ['gcloud', 'compute', 'tpus', 'queued-resources']
  calls = fakes.calls()
  assert calls[0] == [
      *queued, 'describe', 'byol', *WHERE, '--format=value(state.state)']
  assert calls[1] == [
      *queued, 'create', 'byol', *WHERE, '--accelerator-type=v4-32',
      '--node-id=byol', '--runtime-version=tpu-ubuntu2204-base', '--spot']
  assert calls[-1] == [*queued, 'delete', 'byol', *WHERE, '--force']


def test_a_suspended_place_in_the_queue_is_taken_anew(pod):
  pod.states('SUSPENDED', None, 'ACTIVE', kind='queued-resources')
  pod.outcomes('nothing', 'left 0')
  pod.run(*RUN, '--queued', *JOB)
  assert pod.did()[:5] == [
      'describe', 'delete', 'describe', 'create', 'describe']


@pytest.mark.parametrize('kind, queued', [
    ('tpu-vm', ()), ('queued-resources', ('--queued',))])
def test_a_slice_that_fails_each_time_is_an_error(fakes, pod, kind, queued):
  """Deleted and made for ever, it would fill nobody's screen for days."""
  pod.states(*['FAILED', None] * 2, 'FAILED', kind=kind)
  _, err = pod.run(*RUN, *queued, *JOB, code=1)
  assert pod.did().count('create') == pod.did().count('delete') == 2
  assert fakes.calls()[-1][-1] == '--format=yaml'
  assert 'error: byol was FAILED 3 times; above is what gcloud knows' in err
  command = ['./launch/tpu_pod.sh', 'delete', *SLICE, *queued]
  assert err.strip().endswith(f'it is still there: {" ".join(command)}')


def test_a_slice_that_cannot_be_deleted_is_an_error(fakes, pod):
  pod.states('FAILED')
  fakes.answer('gcloud', 'delete', code=1, err='no permission\n', times=-1)
  _, err = pod.run(*RUN, *JOB, code=1)
  assert 'error: byol cannot be deleted; gcloud says why above' in err
  assert pod.did().count('delete') == 20 and 'create' not in pod.did()


def test_a_slice_that_failed_before_it_was_there_is_made_anew(pod):
  failed = ['FAILED', None] * 2
  pod.states(*failed, 'READY', 'PREEMPTED', *failed, 'READY')
  pod.outcomes('nothing', 'no answer', 'nothing', 'left 0')
  pod.run(*RUN, *JOB)
  assert pod.did().count('create') == 4 and pod.did().count('start') == 2


def test_ssh_that_fails_once_is_tried_again(fakes, pod):
  pod.states('READY')
  pod.outcomes('nothing', 'left 0')
  fakes.answer('gcloud', 'scp', code=1)
  fakes.answer('gcloud', 'ssh', 'install', code=255)
  pod.run(*RUN, *JOB)
  assert pod.did()[2:-2] == [
      'scp', 'scp', 'unpack', 'install', 'install', 'start']


def test_ssh_that_never_works_ends_it(fakes, pod):
  pod.states('READY')
  pod.outcomes('nothing')
  fakes.answer('gcloud', 'scp', code=1, err='Permission denied\n', times=-1)
  _, err = pod.run(*RUN, *JOB, code=1)
  assert err.count('Permission denied') == 3
  assert 'error: the job was not started on byol' in err
  assert 'start' not in pod.did()
  assert 'byol is still there, and costs' in err


def test_a_slice_that_is_lost_while_it_is_set_up_is_made_anew(fakes, pod):
  pod.states('READY', 'PREEMPTED', 'PREEMPTED', None, 'READY')
  pod.outcomes('nothing', 'nothing', 'left 0')
  fakes.answer('gcloud', 'ssh', 'install', code=255, times=3)
  pod.run(*RUN, *JOB)
  assert pod.did().count('create') == 1 and pod.did().count('start') == 1


@pytest.mark.parametrize('outcome', ['left 75', 'left 75 | left 137'])
def test_started_again_when_cut_short(pod, outcome):
  pod.states('READY')
  pod.outcomes('nothing', outcome, outcome, 'left 0')
  pod.run(*RUN, *JOB)
  assert pod.did().count('start') == 2


def test_restarts_have_a_limit(pod):
  pod.states('READY')
  pod.outcomes(*['left 75'] * 9)
  _, err = pod.run(*RUN, '--restarts=2', *JOB, code=75)
  assert pod.did().count('start') == 3
  assert 'not started again: 2 restarts are done' in err


def test_restarts_are_counted_anew_once_the_job_ran_for_long(
    pod, monkeypatch):
  monkeypatch.setenv('LASTING_SECONDS', '0')
  pod.states('READY')
  pod.outcomes('nothing', *['left 75'] * 6, 'left 0')
  _, err = pod.run(*RUN, '--restarts=1', *JOB)
  assert err.count('restart 1 of 1') == 3


def test_an_error_of_one_host_ends_it_and_is_shown(fakes, pod):
  pod.states('READY')
  pod.outcomes('nothing', 'left 75 | left 1 | left 137')
  fakes.answer('gcloud', 'follow', out='error: no such bucket\n')
  _, err = pod.run(*RUN, '--delete_at_end', *JOB, code=1)
  assert 'the job left with code 1' in err
  assert 'tpu_pod.sh: error: no such bucket' in err
  assert pod.did().count('start') == 1 and pod.did()[-1] == 'delete'


def test_a_job_that_was_stopped_stays_so(pod):
  pod.states('READY')
  pod.outcomes('nothing', 'stopped 75 | stopped 75')
  _, err = pod.run(*RUN, *JOB, code=75)
  assert 'the job was stopped' in err and pod.did().count('start') == 1


def test_what_gcloud_refuses_is_not_asked_again(fakes, pod):
  pod.states(None)
  fakes.answer('gcloud', 'create', code=1, err='ERROR: quota\n', times=-1)
  _, err = pod.run(*RUN, *JOB, code=1)
  assert 'ERROR: quota' in err and 'error: gcloud did not create byol' in err
  assert pod.did().count('create') == 1


@pytest.mark.parametrize('message', [
    'There is no more capacity in the zone',
    '(gcloud) UNAVAILABLE: The service is down'])
def test_what_may_pass_is_waited_for(fakes, pod, message):
  pod.states(None, None, 'READY')
  pod.outcomes('nothing', 'left 0')
  fakes.answer('gcloud', 'create', code=1, err=f'ERROR: {message}\n')
  pod.run(*RUN, *JOB)
  assert pod.did().count('create') == 2


def test_an_outage_without_end_is_an_error(fakes, pod):
  pod.states(None)
  fakes.answer('gcloud', 'create', code=1, times=-1,
               err='ERROR: the queued resource already exists\n')
  _, err = pod.run(*RUN, *JOB, code=1)
  assert 'error: gcloud did not create byol' in err
  assert pod.did().count('create') == 20


def test_no_permission(fakes, pod):
  fakes.answer('gcloud', 'describe', code=1, times=-1,
               err='ERROR: PERMISSION_DENIED: the API is off\n')
  assert pod.refuse(*RUN, *JOB) == (
      'error: gcloud: ERROR: PERMISSION_DENIED: the API is off')


def test_dry_run(fakes, pod):
  out, err = pod.run(*RUN, '--delete_at_end', '--dry_run', *JOB)
  assert not err and not fakes.calls()
  lines = list(map(shlex.split, out.splitlines()[:2])) + list(
      map(shlex.split, out.splitlines()[3:]))
  assert lines[0][-1] == '--format=value(state)'
  assert lines[1][4:6] == ['create', 'byol']
  assert lines[2] == [
      'gcloud', 'compute', 'tpus', 'tpu-vm', 'scp',
      f'{fakes.directory}/byol_jax.tar.gz', 'byol:', *WHERE, '--worker=all']
  for line, host, remote in zip(lines[3:8], ('all', 'all', 'all', '0', 'all'), (
      'rm -rf byol_jax && mkdir byol_jax && tar -xzf byol_jax.tar.gz -C '
      'byol_jax', f'bash {WORKER} install', None, f'bash {WORKER} follow 1',
      f'test ! -e {WORKER} || bash {WORKER} status'), strict=True):
    assert line[:-1] == [*SSH, f'--worker={host}', *ALIVE]
    if remote is None:
      assert shlex.split(line[-1].removeprefix('--command=')) == [
          'bash', WORKER, 'start', *JOB]
    else:
      assert line[-1] == f'--command={remote}'
  assert lines[8][4:] == ['delete', 'byol', *WHERE]


@pytest.mark.parametrize('accelerator, version', [
    ('v3-32', 'tpu-ubuntu2204-base'), ('v5litepod-64', 'v2-alpha-tpuv5-lite'),
    ('v5p-128', 'v2-alpha-tpuv5'), ('v6e-64', 'v2-alpha-tpuv6e')])
def test_the_image_of_each_generation(pod, accelerator, version):
  out, _ = pod.run('run', *SLICE, f'--accelerator_type={accelerator}',
                   '--dry_run', *JOB)
  assert f'--version={version}' in out.splitlines()[1]


@pytest.mark.parametrize('arguments, expected', [
    (('stop', *SLICE),
     [*SSH, '--worker=all', *ALIVE, f'--command=bash {WORKER} stop']),
    (('fetch', *SLICE, '--workdir=gs://b/r', '--output=my runs'),
     ['gcloud', 'storage', 'rsync', '--recursive', 'gs://b/r', 'my runs/r']),
    (('fetch', *SLICE, '--workdir=runs/r', '--output=here'),
     ['gcloud', 'compute', 'tpus', 'tpu-vm', 'scp', '--recurse',
      'byol:runs/r', 'here', *WHERE, '--worker=0']),
    (('delete', *SLICE, '--queued'),
     ['gcloud', 'compute', 'tpus', 'queued-resources', 'delete', 'byol', *WHERE,
      '--force'])])
def test_the_other_actions(fakes, pod, arguments, expected):
  out, _ = pod.run(*arguments, '--dry_run')
  assert shlex.split(out) == expected and not fakes.calls()
  pod.run(*arguments)
  assert fakes.calls() == [expected]


def test_a_workdir_on_the_slice_is_warned_of(pod):
  _, err = pod.run(*RUN, '--dry_run', 'byol_jax.pretrain', '--workdir=runs/x')
  assert "note: --workdir=runs/x is on the slice's disks" in err


@pytest.mark.parametrize('arguments, said', [
    ((), "error: '': expected run, stop, fetch or delete"),
    (('run', *JOB), 'error: expected --name=NAME'),
    (('run', *SLICE, *JOB), "error: --accelerator_type is ''"),
    ((*RUN, '--preemptible', *JOB),
     "error: unexpected argument '--preemptible' before the job"),
    (RUN, 'error: no job'),
    (('fetch', *SLICE), 'error: expected --workdir=WORKDIR')])
def test_a_slip_is_refused(fakes, pod, arguments, said):
  assert pod.refuse(*arguments).startswith(said)
  assert not fakes.calls()


# gcloud whose slice is this machine: copies go to $HOME, commands run there.
THIS_MACHINE = ['/bin/bash', '-c', '''
case "$*" in
  *" describe "*) echo READY ;;
  *" scp "*) cp "$5" "$HOME" ;;
  *" ssh "*)
    cd "$HOME"
    for word; do command=${word#--command=}; done
    exec bash -c "$command" ;;
esac''', 'gcloud']


@pytest.fixture
def machine(fakes, environment, tmp_path):
  """Runs the script with this machine as its slice; a project of few files."""
  fakes.add('gcloud', 'python')
  fakes.answer('gcloud', times=-1, run=THIS_MACHINE)
  project, home = tmp_path / 'a project', tmp_path / 'home'
  home.mkdir()
  (project / 'launch').mkdir(parents=True)
  for name in ('requirements.txt', 'setup.py', 'launch/tpu_pod.sh',
               'launch/tpu_worker.sh', 'launch/supervise.sh',
               'launch/terminal.sh', 'launch/environment.sh'):
    (project / name).write_bytes((ROOT / name).read_bytes())
  (project / '.gitignore').write_text('runs/\n')
  (project / 'runs').mkdir()
  (project / 'runs' / 'big').touch()
  (project / 'new file').touch()
  (project / 'gone').touch()
  subprocess.run(['git', 'init', '-q'], cwd=project, check=True)
  subprocess.run(['git', 'add', 'gone', 'setup.py'], cwd=project, check=True)
  (project / 'gone').unlink()

  def start(*arguments):
    return fakes.start(
        'bash', project / 'launch' / 'tpu_pod.sh', *arguments, cwd=tmp_path,
        HOME=str(home), **environment)

  start.home = home
  return start


RUN_HERE = ('run', *SLICE, '--accelerator_type=v4-8', '--poll_seconds=0.1')


def test_the_copy_is_what_git_sees_and_the_job_runs(fakes, machine):
  fakes.answer('python', 'byol_jax.pretrain', code=75, out='half\n')
  fakes.answer('python', 'byol_jax.pretrain', out='whole\n')
  process = machine(*RUN_HERE, *JOB)
  out, err = process.communicate(timeout=60)
  assert process.returncode == 0, err
  assert [line for line in out.splitlines() if line in ('half', 'whole')] == [
      'half', 'whole']
  assert 'left with code 75, to be run again' in out
  assert fakes.calls('python')[-1] == ['python', '-m', *JOB]
  copy = machine.home / 'byol_jax'
  assert (copy / 'new file').exists() and (copy / 'setup.py').exists()
  assert not (copy / 'runs').exists() and not (copy / 'gone').exists()


def test_the_job_outlives_the_connection_and_can_be_stopped(fakes, machine):
  fakes.answer('python', 'byol_jax.pretrain', run=['/bin/bash', '-c', f'''
trap 'echo saved; exit 75' TERM
touch "{machine.home}/ready"
for i in {{1..400}}; do sleep 0.05; done'''])
  process = machine(*RUN_HERE, *JOB)
  until = time.monotonic() + 30
  while not (machine.home / 'ready').exists():
    assert time.monotonic() < until
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  os.kill(int((machine.home / 'byol_jax_job' / 'pid').read_text()), 0)

  def follows():
    return sum(' follow ' in call[-1] for call in fakes.calls('gcloud'))

  before, until = follows(), time.monotonic() + 30
  follower = machine(*RUN_HERE, *JOB)
  while follows() == before:
    assert time.monotonic() < until
    time.sleep(0.02)
  stopper = machine('stop', *SLICE)
  out, _ = stopper.communicate(timeout=20)
  assert out == 'byol_jax_job: stopped 75\n'
  out, err = follower.communicate(timeout=20)
  assert follower.returncode == 75, err
  assert 'saved' in out
  assert len([call for call in fakes.calls('python')
              if 'byol_jax.pretrain' in call]) == 1


def test_a_host_whose_python_is_too_old_gets_another(
    fakes, environment, tmp_path):
  fakes.add('python3.12', 'python3.11', 'python3')
  for name in ('python3.12', 'python3.11', 'python3'):
    fakes.answer(name, '-c', code=1, times=-1)
  fakes.answer('python3', 'uv python find', out='/of/uv/python3.12\n')
  fakes.run(ROOT / 'launch' / 'tpu_worker.sh', 'install', cwd=tmp_path,
            **environment)
  assert [call[1:] for call in fakes.calls('python3') if call[1] != '-c'] == [
      ['-m', 'pip', 'install', '--user', '--quiet', 'uv'],
      ['-m', 'uv', 'python', 'install', '3.12'],
      ['-m', 'uv', 'python', 'find', '3.12']]


def test_a_host_that_cannot_install_says_so(fakes, environment, tmp_path):
  """It has no job that could leave a code, and would come again."""
  worker = ROOT / 'launch' / 'tpu_worker.sh'
  (tmp_path / 'byol_jax_job').mkdir()
  fakes.add('python3.12', 'python3.11', 'python3')
  for name in ('python3.12', 'python3.11', 'python3'):
    fakes.answer(name, '-c', code=1, times=-1)
  fakes.answer('python3', 'pip install', code=1)
  fakes.run(worker, 'work', 'byol_jax.pretrain', cwd=tmp_path, code=1,
            HOME=str(tmp_path), **environment)
  out, _ = fakes.run(
      worker, 'status', cwd=tmp_path, HOME=str(tmp_path), **environment)
  assert out == 'byol_jax_job: left 1\n'
  assert not fakes.calls('python')


def test_a_host_that_cannot_start_a_job_is_not_done(
    fakes, environment, tmp_path):
  """Where nothing can be written for it, either."""
  (tmp_path / 'byol_jax_job').mkdir()
  fakes.run(
      ROOT / 'launch' / 'tpu_worker.sh', 'work', 'byol_jax.pretrain',
      cwd=tmp_path, code=1, HOME=str(tmp_path),
      **environment | {'TMPDIR': str(tmp_path / 'none')})
  assert (tmp_path / 'byol_jax_job' / 'code').read_text() == '1\n'
  assert not fakes.calls('python')


@pytest.mark.parametrize('notes, said', [
    ({}, 'nothing'), ({'pid': '1'}, 'left 137'),
    ({'pid': '1', 'code': '75'}, 'left 75'),
    ({'pid': '1', 'code': '75', 'stopped': 'stopped'}, 'stopped 75')])
def test_what_a_host_says_of_its_job(fakes, tmp_path, notes, said):
  """A number alone is no proof: it may be another process after a reboot."""
  (tmp_path / 'byol_jax_job').mkdir()
  for name, text in notes.items():
    (tmp_path / 'byol_jax_job' / name).write_text(f'{text}\n')
  out, _ = fakes.run(ROOT / 'launch' / 'tpu_worker.sh', 'status',
                     cwd=tmp_path, HOME=str(tmp_path))
  assert out == f'byol_jax_job: {said}\n'

"""launch/local_processes.sh, with real processes of a job without JAX."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.processes import has_ended

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / 'launch' / 'local_processes.sh'

# `python -m obedient WHAT` does WHAT in process $ONLY (or all) the first $TIMES
# that it is started, while the others wait for a signal, and is done after
# that. It leaves its pid, and how often it was started.
JOB = r'''
import os, pathlib, signal, subprocess, sys, time
rank = sys.argv[-1].removeprefix('--process_id=')
directory = pathlib.Path(os.environ['DIRECTORY'])
starts = directory / f'starts{rank}'
starts.write_text(starts.read_text() + 'x' if starts.exists() else 'x')
start = len(starts.read_text())
what = sys.argv[1]
if start > int(os.environ.get('TIMES', 99)):
  what = 'done'
elif os.environ.get('ONLY', rank) != rank:
  what = 'wait'
signals = []

def obey(number, _):
  signals.append(number)
  print(f'got {signal.Signals(number).name}', flush=True)
  if len(signals) > 1:
    os._exit(128 + number)
  if what == 'wait':
    sys.exit(75)

for number in (signal.SIGTERM, signal.SIGINT):
  signal.signal(number, obey)
if what == 'child':
  child = subprocess.Popen(['sleep', '60'])
  (directory / f'pid-child{rank}').write_text(str(child.pid))
(directory / f'pid{rank}').write_text(str(os.getpid()))
(directory / f'ready{rank}-{start}').touch()
if what[:4] in ('kill', 'code', 'mist'):
  count = int(next(a for a in sys.argv if 'num_proc' in a).split('=')[1])
  while len(list(directory.glob(f'ready?-{start}'))) < count:
    time.sleep(0.02)  # The others would be stopped before they count.
if what == 'say':
  print('to stdout')
  print('to stderr', file=sys.stderr)
elif what == 'mistake':
  print('error: no such thing', file=sys.stderr)
  sys.exit(1)
elif what.startswith('code'):
  sys.exit(int(what[4:]))
elif what.startswith('kill'):
  os.kill(os.getpid(), int(what[4:]))
while what in ('wait', 'stubborn'):
  time.sleep(0.05)
'''


class Processes:
  """A folder that the job leaves notes in, and how the script is run."""

  def __init__(self, directory: pathlib.Path):
    self.directory = directory / 'a folder'
    self.directory.mkdir()
    self._started = []
    (self.directory / 'obedient.py').write_text(JOB)
    bin_directory = os.path.dirname(sys.executable)
    self._environment = os.environ | {
        'PATH': f'{bin_directory}:{os.environ["PATH"]}',
        'PYTHONPATH': str(self.directory), 'DIRECTORY': str(self.directory),
        'TMPDIR': str(self.directory)}
    self._environment.pop('XLA_FLAGS', None)

  def start(self, *arguments, **environment) -> subprocess.Popen:
    process = subprocess.Popen(
        [SCRIPT, *arguments], cwd=self.directory, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=self._environment | environment,
        # As in a terminal, even where the tests run without one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    self._started.append(process)
    return process

  def stop(self) -> None:
    """Ends what a test that failed has left."""
    for process in self._started:
      while process.poll() is None:
        process.terminate()
        time.sleep(0.5)

  def run(self, *arguments, code=0, **environment) -> tuple[str, str]:
    """What was said on stdout and stderr."""
    process = self.start(*arguments, **environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    self.assert_none_left()
    return out, err

  def refuse(self, *arguments) -> str:
    _, err = self.run(*arguments, code=1)
    (line,) = err.strip().splitlines()
    assert not self.starts()
    return line

  def starts(self) -> list[int]:
    """How often each process was started."""
    return [len(path.read_text())
            for path in sorted(self.directory.glob('starts*'))]

  def wait_for(self, name: str) -> int:
    """The number in a file, once it is there."""
    path = self.directory / name
    until = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
      assert time.monotonic() < until
      time.sleep(0.02)
    return int(path.read_text())

  def assert_none_left(self):
    for path in self.directory.glob('pid*'):
      assert has_ended(int(path.read_text())), path.name


@pytest.fixture
def processes(tmp_path):
  made = Processes(tmp_path)
  yield made
  made.stop()


def test_the_commands_of_a_dry_run(processes):
  out, err = processes.run(
      '2', '--devices=3', '--port=4567', '--dry_run', 'obedient', 'done',
      '--workdir=my runs', XLA_FLAGS='--xla_flag=1')
  assert not err and not processes.starts()
  assert [shlex.split(line) for line in out.splitlines()] == [[
      'env', 'JAX_PLATFORMS=cpu',
      'XLA_FLAGS=--xla_flag=1 --xla_force_host_platform_device_count=3',
      'PYTHONUNBUFFERED=1', 'python', '-m', 'obedient', 'done',
      '--workdir=my runs', '--coordinator=127.0.0.1:4567', '--num_processes=2',
      f'--process_id={i}'] for i in range(2)]


def test_a_port_is_chosen_once_for_all_processes(processes):
  out, _ = processes.run('3', '--dry_run', 'obedient')
  ports = {word.rpartition(':')[2] for line in out.splitlines()
           for word in line.split() if word.startswith('--coordinator=')}
  (port,) = ports
  assert 20000 <= int(port) < 32768


def test_a_job_that_ends_well_runs_once(processes):
  processes.run('3', 'obedient', 'done')
  assert processes.starts() == [1, 1, 1]


def test_stdout_is_that_of_process_0_and_others_have_their_number(processes):
  out, err = processes.run('2', 'obedient', 'say')
  assert out == 'to stdout\n'
  assert sorted(err.splitlines()) == [
      '[1] to stderr', '[1] to stdout', 'to stderr']


@pytest.mark.parametrize('what, said', [
    ('kill9', 'was killed by signal 9 (KILL)'),
    ('kill6', 'was killed by signal 6 (ABRT)'),
    ('code75', 'left with code 75, to be run again')])
def test_one_that_dies_is_named_and_all_start_again(processes, what, said):
  _, err = processes.run('2', 'obedient', what, ONLY='1', TIMES='2')
  assert processes.starts() == [3, 3]
  lines = [line.partition(': ')[2] for line in err.splitlines()
           if line.startswith('local_processes.sh')]
  # With its pid, which is another each time.
  assert [' '.join(line.split(' ')[:2] + line.split(' ')[4:])
          for line in lines if line.startswith('process 1')] == [
              f'process 1 {said}'] * 2
  assert lines[-1] == 'starting all 2 again, restart 2 of 3'


def test_restarts_have_a_limit_and_the_code_is_the_failures(processes):
  _, err = processes.run(
      '2', '--restarts=1', 'obedient', 'kill9', ONLY='0', code=137)
  assert processes.starts() == [2, 2]
  assert err.endswith('not started again: 1 restarts are done\n')
  processes.run('1', '--restarts=0', 'obedient', 'code75', code=75)


def test_restarts_are_counted_anew_once_all_ran_for_long(processes):
  _, err = processes.run(
      '2', '--restarts=1', 'obedient', 'code75', ONLY='0', TIMES='3',
      LASTING_SECONDS='0')
  assert processes.starts() == [4, 4]
  assert err.count('restart 1 of 1') == 3


@pytest.mark.parametrize('what, code', [('mistake', 1), ('code3', 3)])
def test_a_mistake_is_not_tried_again(processes, what, code):
  _, err = processes.run('2', 'obedient', what, ONLY='1', code=code)
  assert processes.starts() == [1, 1]
  assert f') left with code {code}\n' in err
  assert 'got SIGTERM' not in err  # That is process 0's, on stdout.
  if what == 'mistake':
    assert '[1] error: no such thing\n' in err


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_once_and_nothing_starts_again(processes, number):
  process = processes.start('2', 'obedient', 'wait')
  for rank in range(2):
    processes.wait_for(f'pid{rank}')
  process.send_signal(number)
  out, err = process.communicate(timeout=20)
  assert process.returncode == 75
  assert out == f'got {number.name}\n'
  assert err.count(f'[1] got {number.name}\n') == 1
  assert processes.starts() == [1, 1]
  processes.assert_none_left()


def test_a_second_signal_is_passed_on_at_once(processes):
  process = processes.start('2', 'obedient', 'stubborn')
  for rank in range(2):
    processes.wait_for(f'pid{rank}')
  process.send_signal(signal.SIGTERM)
  assert process.stdout.readline() == 'got SIGTERM\n'
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=20)
  assert process.returncode == 128 + signal.SIGINT
  processes.assert_none_left()


def test_ctrl_c_in_a_terminal_counts_once(processes):
  """It goes to a whole group, which must not hold the processes."""
  process = processes.start('2', 'obedient', 'wait')
  pids = [processes.wait_for(f'pid{rank}') for rank in range(2)]
  groups = {os.getpgid(pid) for pid in pids}
  assert len(groups) == 2 and os.getpgid(process.pid) not in groups
  process.terminate()
  process.communicate(timeout=20)


def test_who_does_not_stop_is_killed(processes):
  process = processes.start(
      '2', '--grace=3', '--restarts=0', 'obedient', 'stubborn')
  pids = [processes.wait_for(f'pid{rank}') for rank in range(2)]
  os.kill(pids[0], signal.SIGKILL)
  _, err = process.communicate(timeout=20)
  assert process.returncode == 128 + signal.SIGKILL
  assert '[1] got SIGTERM\n' in err
  assert 'killing 1 that did not stop in 3 s\n' in err
  assert f'process 1 (pid {pids[1]}) was killed by signal 9' in err
  processes.assert_none_left()


def test_what_processes_started_ends_with_them(processes):
  processes.run('2', 'obedient', 'child')
  assert len(list(processes.directory.glob('pid-child*'))) == 2


def test_a_slip_is_refused(processes):
  assert processes.refuse().startswith('error: expected a number of processes')
  assert processes.refuse('0', 'obedient') == (
      "error: number of processes is '0', expected a whole number from 1")
  assert processes.refuse('2', '--devices=x', 'obedient').startswith(
      "error: --devices is 'x', expected a whole number")
  assert processes.refuse('2', '--device=2', 'obedient').startswith(
      "error: unexpected argument '--device=2' before the job")
  assert processes.refuse('2').startswith('error: no job')
  assert processes.refuse('2', './train.py').startswith(
      "error: './train.py' is no job")


def test_help_is_the_head_of_the_script(processes):
  out, _ = processes.run('--help')
  assert out.startswith('Runs a job as several processes')
  assert '#' not in out and 'set -euo' not in out

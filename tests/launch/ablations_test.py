"""launch/ablations.sh, with a Python that notes what it is asked to do."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from configs import ablations

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / 'launch' / 'ablations.sh'

# Makes an environment of itself; a run of a name in $FAIL fails, one in $HANG
# never ends.
FAKE = r'''#!/usr/bin/env bash
set -eu
case "$*" in
  *"-m venv "*)
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    echo "PATH=$3/bin:\$PATH" > "$3/bin/activate" ;;
  *byol_jax.pretrain*)
    for argument; do
      case $argument in --workdir=*) workdir=${argument#*=} ;; esac
    done
    printf '%s\n' "$*" >> "$CALLS"
    name=$(basename "$workdir")
    case " ${FAIL:-} " in *" $name "*)
      echo 'step 50/100  loss 2.0'
      echo "error: train/loss became NaN or infinite in step 77" >&2
      exit 1 ;;
    esac
    case " ${CRASH:-} " in *" $name "*) echo 'out of memory'; exit 137 ;; esac
    case " ${HANG:-} " in *" $name "*)
      echo $$ > "$workdir/pid"
      exec sleep 60 ;;
    esac
    echo '{}' > "$workdir/result.json" ;;
  *configs.ablations*) exec "$REAL_PYTHON" "$@" ;;
  *byol_jax.compare*) printf '%s\n' "$*" >> "$CALLS" ;;
esac
'''


class Grid:
  """A workdir, and how the script is run on it."""

  def __init__(self, directory: pathlib.Path):
    self._calls = directory / 'calls'
    self.workdir = directory / 'the runs'
    python = directory / 'python'
    python.write_text(FAKE)
    python.chmod(0o755)
    self._environment = os.environ | {
        'PYTHON': str(python), 'REAL_PYTHON': sys.executable,
        'BYOL_JAX_VENV': str(directory / 'venv'),
        'CALLS': str(self._calls)}
    self._command = [
        SCRIPT, f'--workdir={self.workdir}', f'--output={directory}/table']

  def start(self, *arguments, **environment):
    return subprocess.Popen(
        [*self._command, *arguments], cwd='/', text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=self._environment | environment,
        # As in a terminal, even where the tests run without one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

  def run(self, *arguments, code=0, **environment):
    """What was said, and what Python was asked: lists of arguments."""
    self._calls.unlink(missing_ok=True)
    process = self.start(*arguments, **environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return out, self.calls()

  def refuse(self, *arguments):
    """The one line that is said instead of a run."""
    process = self.start(*arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert not self.calls()
    (line,) = err.strip().splitlines()
    return line

  def calls(self):
    lines = []
    if self._calls.exists():
      lines = self._calls.read_text().splitlines()
    return [line.split(' --', 1) for line in lines]

  def runs(self, calls):
    return [
        line.split('--config=')[1].split(',')[0].rsplit(':')[-1] + '-'
        + line.split('--config.seed=')[1].split()[0]
        for line in (' --'.join(call) for call in calls)
        if 'byol_jax.pretrain' in line]


@pytest.fixture
def grid(tmp_path):
  return Grid(tmp_path)


def test_every_name_once_before_the_next_seed(grid):
  out, calls = grid.run('--names=byol tau_0', '--seeds=0 7')
  assert grid.runs(calls) == ['byol-0', 'tau_0-0', 'byol-7', 'tau_0-7']
  assert '[3/4, 0 min] byol, seed 7: runs' in out
  assert calls[-1][0] == '-m byol_jax.compare'
  assert f'--runs={grid.workdir}' in '--' + calls[-1][1]


def test_what_has_a_result_is_skipped(grid):
  grid.run('--names=byol', '--seeds=0')
  out, calls = grid.run('--names=byol tau_0', '--seeds=0')
  assert grid.runs(calls) == ['tau_0-0']
  assert 'byol, seed 0: has a result' in out
  assert len(calls) == 2  # The comparison is made anew.


def test_a_failure_is_noted_and_does_not_stop_the_others(grid):
  arguments = '--names=byol tau_0 tau_1', '--seeds=0'
  out, calls = grid.run(
      *arguments, code=1, FAIL='byol-0', CRASH='tau_0-0')
  assert grid.runs(calls) == ['byol-0', 'tau_0-0', 'tau_1-0']
  assert calls[-1][0] == '-m byol_jax.compare'
  noted = [grid.workdir / name / 'failed.txt' for name in ('byol-0', 'tau_0-0')]
  assert [path.read_text() for path in noted] == [
      'error: train/loss became NaN or infinite in step 77\n',
      'error: code 137: out of memory\n']
  assert 'became NaN' in out
  assert out.endswith('2 of 3 runs failed: their failed.txt says why\n')
  # The next time it is tried again.
  _, calls = grid.run(*arguments)
  assert grid.runs(calls) == ['byol-0', 'tau_0-0']
  assert not any(path.exists() for path in noted)


def test_overrides_reach_every_run_and_the_page(grid):
  _, calls = grid.run(
      '--names=byol tau_1', '--seeds=0', '--config.data=fake:64',
      '--config.num_epochs=1')
  *runs, compare = (' --'.join(call) for call in calls)
  assert len(runs) == 2
  for line in runs:
    assert line.endswith('--config.data=fake:64 --config.num_epochs=1')
  assert compare.endswith(
      '--command=./launch/ablations.sh --names="byol tau_1" --seeds=0 '
      '--config.data=fake:64 --config.num_epochs=1')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_grid_and_the_run_at_once(grid, number):
  process = grid.start('--names=byol tau_0', '--seeds=0', HANG='byol-0')
  pid = grid.workdir / 'byol-0' / 'pid'
  until = time.monotonic() + 30
  while not (pid.exists() and pid.read_text().strip()):
    assert time.monotonic() < until and process.poll() is None
    time.sleep(0.02)
  process.send_signal(number)
  out, _ = process.communicate(timeout=20)
  assert process.returncode == 130
  assert out.endswith('run it again to go on\n')
  assert grid.runs(grid.calls()) == ['byol-0']
  assert not (grid.workdir / 'byol-0' / 'failed.txt').exists()
  with pytest.raises(ProcessLookupError):
    os.kill(int(pid.read_text()), 0)


def test_dry_run_starts_nothing_and_the_grid_is_of_ablations(grid):
  out, calls = grid.run('--dry_run', '--seeds=0 1')
  assert not calls and not grid.workdir.exists()
  *runs, compare = map(shlex.split, out.splitlines())
  assert compare[2] == 'byol_jax.compare'
  arguments = [line[3].removeprefix('--config=') for line in runs]
  assert len(arguments) == 2 * len(set(arguments))
  assert arguments[0] == 'configs/ablations.py:byol,cifar10'
  for argument in arguments:
    path, _, name = argument.partition(':')
    assert (ROOT / path).exists()
    assert ablations.get_config(name).name == name.removesuffix(',cifar10')
  assert len(arguments) >= 24


def test_a_slip_is_found_before_the_first_run(grid):
  assert grid.refuse('--name=byol').startswith(
      "error: unexpected argument '--name=byol'")
  line = grid.refuse('--names=byol tau0', '--seeds=0')
  assert line.startswith("error: no ablation 'tau0': did you mean tau_0? ")
  line = grid.refuse('--names=byol no_blur', '--seeds=0')
  assert line.startswith(
      'error: the ablation no_blur makes no sense on cifar10: its views have')
  assert grid.refuse('--names=byol', '--seeds=0,1').startswith(
      "error: --seeds has '0,1', expected numbers")
  assert grid.refuse('--names=').startswith('error: no runs')
  assert 'expected --seeds' in grid.refuse('--config.seed=3')


def test_a_workdir_is_for_one_set_of_overrides(grid):
  arguments = '--names=byol', '--seeds=0'
  # Nothing has run with a slip.
  grid.run(*arguments, '--config.num_epoch=2', code=1, FAIL='byol-0')
  overrides = '--config.num_epochs=2', "--config.data='fake'"
  grid.run(*arguments, *overrides)
  (grid.workdir / 'byol-0' / 'config.json').write_text('{}')
  grid.run(*arguments, *overrides[::-1])
  for others in ((), ('--config.num_epochs=3',)):
    process = grid.start(*arguments, *others)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = err.strip().splitlines()
    assert '--config.num_epochs=2' in line and 'another --workdir' in line

"""Programs that note how they are called, in the place of real ones."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

# Answers by the first rule for this program whose words are all in the call, as
# often as the rule says; other calls succeed and say nothing.
FAKE = '''#!{python} -SE
import fcntl, json, os, signal, sys, time
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with open({directory!r} + '/lock', 'w') as lock:
  fcntl.flock(lock, fcntl.LOCK_EX)
  with open({directory!r} + '/calls', 'a') as calls:
    calls.write(json.dumps([call, dict(os.environ)]) + '\\n')
  with open({directory!r} + '/rules') as file:
    rules = json.load(file)
  text = ' '.join(call)
  for rule in rules:
    if rule['times'] and rule['program'] == call[0] and all(
        word in text for word in rule['words']):
      rule['times'] -= 1
      break
  else:
    rule = dict(out='', err='', code=0)
  with open({directory!r} + '/rules', 'w') as file:
    json.dump(rules, file)
if rule.get('run'):
  os.execv(rule['run'][0], [*rule['run'], *sys.argv[1:]])
print(rule['out'], end='', flush=True)
print(rule['err'], end='', file=sys.stderr, flush=True)
if rule['code'] == 'wait':
  time.sleep(60)
if rule['code'] < 0:
  os.kill(os.getpid(), -rule['code'])
sys.exit(rule['code'])
'''


class Fakes:
  """Programs in a folder on the PATH, what they answer, and their calls."""

  def __init__(self, directory: pathlib.Path):
    self.directory = directory
    directory.mkdir()
    self._rules = []
    (directory / 'calls').touch()

  def add(self, *names: str) -> None:
    """Makes programs of these names."""
    for name in names:
      path = self.directory / name
      path.write_text(
          FAKE.format(python=sys.executable, directory=str(self.directory)))
      path.chmod(0o755)

  def answer(self, program: str, *words: str, out: str = '', err: str = '',
             code=0, times: int = 1, run=None) -> None:
    """How a call of `program` is answered, once earlier rules are used up.

    Args:
      program: its name.
      *words: all of them in the call.
      out: on stdout.
      err: on stderr.
      code: its exit code; a negative one is a signal, 'wait' is for a signal.
      times: how often; -1 is always.
      run: the program that is run instead, with the call's arguments.
    """
    self._rules.append(dict(
        program=program, words=words, out=out, err=err, code=code,
        times=times, run=run))

  def run(self, *command, cwd, code=0, **environment):
    """Runs a script among the fakes, and returns its stdout and stderr."""
    process = self.start(*command, cwd=cwd, **environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    return out, err

  def start(self, *command, cwd, **environment) -> subprocess.Popen:
    (self.directory / 'rules').write_text(json.dumps(self._rules))
    environment = {
        name: value for name, value in os.environ.items()
        if not name.startswith('SLURM') and name != 'CUDA_VISIBLE_DEVICES'
    } | {'PATH': f'{self.directory}:{os.environ["PATH"]}',
         'TMPDIR': str(self.directory)} | environment
    return subprocess.Popen(
        command, cwd=cwd, text=True, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

  def calls(self, *programs: str) -> list[list[str]]:
    """The calls of these programs, or of all, in their order."""
    return [call for call, _ in self._noted()
            if not programs or call[0] in programs]

  def environment(self, program: str) -> dict[str, str]:
    """That of its first call."""
    return next(environment for call, environment in self._noted()
                if call[0] == program)

  def _noted(self):
    return [json.loads(line) for line in
            (self.directory / 'calls').read_text().splitlines()]


@pytest.fixture
def fakes(tmp_path):
  return Fakes(tmp_path / 'fakes')


@pytest.fixture
def environment(tmp_path):
  """Variables with which launch/environment.sh finds an environment made."""
  root = pathlib.Path(__file__).parents[2]
  venv = tmp_path / 'the venv'
  (venv / 'bin').mkdir(parents=True)
  (venv / 'bin' / 'activate').touch()
  checksum = subprocess.run(
      'cat requirements.txt setup.py | cksum', shell=True, cwd=root,
      capture_output=True, text=True, check=True).stdout.strip()
  (venv / '.byol_jax').write_text(
      ''.join(f'{extras} {checksum}\n' for extras in ('cuda', 'tpu', 'dev')))
  return {'BYOL_JAX_VENV': str(venv)}

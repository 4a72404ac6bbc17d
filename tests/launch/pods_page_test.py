"""The commands of docs/pods.md are those that the scripts take."""

import pathlib
import re
import shlex
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NAMES = {'PROJECT': 'mine', 'ZONE': 'us-central2-b', 'BUCKET': 'bucket'}


def commands() -> list[list[str]]:
  """The words of each command of the page that starts a launcher."""
  text = (ROOT / 'docs' / 'pods.md').read_text()
  blocks = re.findall(r'```bash\n(.*?)```', text, re.DOTALL)
  lines = ''.join(blocks).replace('\\\n', ' ').splitlines()
  words = [shlex.split(line) for line in lines if 'launch/' in line]
  return [line for line in words if line[0] != 'source']


def dry(words: list[str]) -> list[str]:
  """The same command, that only prints; sbatch's part is left out."""
  start = next(i for i, word in enumerate(words) if 'launch/' in word)
  script, *arguments = words[start:]
  before = 1 if script.endswith('tpu_pod.sh') else 0  # run, stop, ...
  if script.endswith('local_processes.sh'):
    before = 1
  return ['bash', script, *arguments[:before], '--dry_run',
          *arguments[before:]]


@pytest.mark.parametrize('words', commands(), ids=' '.join)
def test_the_script_takes_it(words):
  line = shlex.join(dry(words))
  for name, value in NAMES.items():
    line = line.replace(f'${name}', value)
  done = subprocess.run(
      shlex.split(line), cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0 and not done.stderr, done.stderr
  assert done.stdout


def test_every_launcher_is_on_the_page():
  scripts = {re.search(r'launch/(\w+)', ' '.join(words))[1]
             for words in commands()}
  assert scripts == {'tpu_pod', 'slurm', 'gpu_node', 'local_processes'}

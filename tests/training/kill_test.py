"""A real run, killed with SIGKILL wherever it happens to be."""

import json
import os
import pathlib
import random
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from byol_jax.training import checkpoint

ROOT = pathlib.Path(__file__).parents[2]
ARGUMENTS = (
    '--config=configs/quickstart.py', '--config.data=fake:256',
    '--config.test_split=', '--config.resnet.width=0.0625',
    '--config.batch_size=16', '--config.total_steps=300',
    '--config.warmup_steps=10', '--config.checkpoint_every_steps=7',
    '--config.evaluate_every_steps=1000', '--config.log_every_steps=5')


def _start(workdir):
  return subprocess.Popen(
      [sys.executable, '-m', 'byol_jax.pretrain', f'--workdir={workdir}',
       *ARGUMENTS], cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ | {
           'JAX_PLATFORMS': 'cpu'})


def _losses(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = map(json.loads, lines)
  return [(r['step'], r['train/loss']) for r in rows if 'train/loss' in r]


@pytest.mark.slow
def test_killed_at_random_ends_bit_identical(tmp_path):
  """Five times, at any moment after the first save, saves included."""
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  assert _start(whole).wait() == 0
  rng = random.Random(0)
  kills = 0
  while kills < 5:
    run = _start(killed)
    saved = set((killed / 'checkpoints').glob('[0-9]*'))
    while run.poll() is None:
      if set((killed / 'checkpoints').glob('[0-9]*')) - saved:
        time.sleep(rng.uniform(0, 0.5))
        run.kill()
        kills += 1
        break
      time.sleep(0.02)
    run.wait()
    if run.returncode == 0:
      break
  assert kills
  assert _start(killed).wait() == 0
  assert _losses(killed) == _losses(whole)
  states = [
      checkpoint.restore_workdir(str(path))[2] for path in (whole, killed)]
  for a, b in zip(*map(jax.tree.leaves, states), strict=True):
    np.testing.assert_array_equal(a, b)

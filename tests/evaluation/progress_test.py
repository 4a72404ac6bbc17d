"""Unfinished work: kept, found again, thrown away."""

import pathlib

import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.evaluation import progress


def test_what_was_put_is_found_again(tmp_path):
  progress.Progress(tmp_path).put(
      'one', {'x': np.arange(3), 'y': 0.5, 'z': True})
  found = progress.Progress(tmp_path).get('one')
  np.testing.assert_array_equal(found['x'], [0, 1, 2])
  assert found['y'] == 0.5 and found['z']
  assert progress.Progress(tmp_path).get('two') is None


def test_half_a_file_is_none(tmp_path):
  job = progress.Progress(tmp_path)
  job.put('one', {'x': 1})
  (path,) = tmp_path.rglob('one.npz')
  path.rename(path.with_suffix('.tmp'))  # killed before the last move
  assert job.get('one') is None
  job.put('one', {'x': 2})
  assert progress.Progress(tmp_path).get('one')['x'] == 2


def test_a_place_is_not_among_what_was_put(tmp_path):
  job = progress.Progress(tmp_path / 'job')
  assert pathlib.Path(job.place('fit')).parent == tmp_path / 'job'
  assert job.get('fit') is None


def test_nowhere():
  job = progress.Progress(None)
  job.put('one', {'x': 1})
  assert job.get('one') is None and job.place('fit') is None


def test_a_place_is_one_jobs_at_a_time(tmp_path):
  with progress.lock(tmp_path / 'job'):
    with pytest.raises(config_lib.ConfigError, match='another job works on'):
      with progress.lock(tmp_path / 'job'):
        pass
    with progress.lock(tmp_path / 'other'), progress.lock(None):
      pass
  with pytest.raises(KeyboardInterrupt), progress.lock(tmp_path / 'job'):
    raise KeyboardInterrupt
  with progress.lock(tmp_path / 'job'):
    pass

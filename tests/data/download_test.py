"""Giving up on what does not answer, and only on that."""

import sys
import time

import pytest

from byol_jax.data import download

_START = 'import sys, time; print(0.0, flush=True); '


def _run(code: str, tmp_path, patience_secs=1.0):
  download.run_while_active(
      [sys.executable, '-c', _START + code, str(tmp_path)],
      watched_dir=str(tmp_path), patience_secs=patience_secs)


def test_idle_command_is_stopped(tmp_path):
  start = time.monotonic()
  with pytest.raises(download.DownloadError, match='nothing answered in 1'):
    _run('time.sleep(60)', tmp_path)
  assert time.monotonic() - start < 10


def test_starting_takes_its_own_time(tmp_path):
  def run(start_secs):
    download.run_while_active(
        [sys.executable, '-c',
         'import time; time.sleep(3); print(0.0, flush=True)'],
        watched_dir=str(tmp_path), patience_secs=1.0, start_secs=start_secs)

  run(start_secs=60.0)
  with pytest.raises(download.DownloadError, match='did not start in 1 sec'):
    run(start_secs=1.0)


def test_growing_files_are_progress(tmp_path):
  _run('''
for i in range(20):
  open(sys.argv[1] + "/x", "a").write("x")
  time.sleep(0.2)
''', tmp_path, patience_secs=3.0)
  assert (tmp_path / 'x').read_text() == 'x' * 20


def test_computing_is_progress(tmp_path):
  _run('''
for i in range(20):
  print(2.0 * i, flush=True)
  time.sleep(0.2)
''', tmp_path, patience_secs=3.0)


def test_failure_says_the_last_line(tmp_path):
  with pytest.raises(download.DownloadError, match='^of many$'):
    _run('sys.exit("first line\\nof many")', tmp_path, patience_secs=20)

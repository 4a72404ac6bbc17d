"""Rows of files that can only be written whole, as on gs://."""

import json

from etils import epath
import pytest

from byol_jax.training import row_files


def _row(step):
  return (json.dumps({'step': step}) + '\n').encode()


def _steps(path):
  return [json.loads(line)['step'] for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path):
  return epath.Path(tmp_path / 'metrics.jsonl')


def test_what_is_there_is_written_when_told_or_after_a_minute(
    path, monkeypatch):
  file = row_files.RemoteRowFile(path, 0)
  file.write(_row(1))
  assert not path.exists()
  file.flush()
  assert _steps(path) == [1]
  file.write(_row(2))
  assert _steps(path) == [1]
  monkeypatch.setattr(row_files, '_REMOTE_FLUSH_SECS', -1.0)
  file.write(_row(3))
  assert _steps(path) == [1, 2, 3]


def test_it_goes_on_without_later_rows(path):
  path.write_bytes(_row(1) + _row(2) + _row(3) + b'{"st')
  file = row_files.RemoteRowFile(path, 2)
  file.write(_row(3))
  file.flush()
  assert _steps(path) == [1, 2, 3]


@pytest.mark.parametrize('kind', [row_files.RowFile, row_files.RemoteRowFile])
def test_an_evaluation_that_is_made_again_has_one_row(path, kind):
  rows = [{'step': 1, 'train/loss': 2.0}, {'step': 2, 'train/loss': 1.0},
          {'step': 2, 'knn/test_top1': 0.5}]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  for due, kept in ((False, 3), (True, 2)):
    file = kind(path, 2, due)
    file.flush()
    file.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == (
        rows[:kept])


def test_a_row_that_cannot_be_written_is_kept_once(path, monkeypatch):
  monkeypatch.setattr(row_files, '_REMOTE_FLUSH_SECS', -1.0)
  file = row_files.RemoteRowFile(path, 0)
  kept = row_files.Kept('metrics.jsonl', file)
  kept.put(_row(1))
  path.unlink()
  path.mkdir()  # nothing can be written there
  kept.put(_row(2))
  kept.put(_row(3))
  path.rmdir()
  kept.put(_row(4))
  kept.close()
  assert _steps(path) == [1, 2, 3, 4]


def test_which_of_the_two(tmp_path):
  assert row_files.is_remote('gs://bucket/run')
  assert not row_files.is_remote(tmp_path)
  assert isinstance(
      row_files.open_rows(epath.Path(tmp_path) / 'a.jsonl', 0),
      row_files.RowFile)

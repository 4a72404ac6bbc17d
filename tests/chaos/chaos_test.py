"""The chaos command: what it counts, and some of its troubles."""

import json
import sys
import time

import numpy as np
import pytest

from tests import processes
from tests.chaos import __main__ as chaos
from tests.chaos import disks
from tests.chaos import runs


@pytest.fixture
def lab(tmp_path):
  made = runs.Lab(tmp_path, seed=0, is_short=True)
  yield made
  made.end()


@pytest.fixture(scope='module')
def shared_lab(tmp_path_factory):
  """For real runs: what nothing happened to is run once."""
  made = runs.Lab(
      tmp_path_factory.mktemp('chaos'), seed=0, is_short=True)
  yield made
  made.end()


def _troubled(*outcomes):
  def cause(_):
    for outcome in outcomes:
      if isinstance(outcome, Exception):
        raise outcome
      yield outcome
  return cause


def test_a_row_counts_what_was_tried_survived_and_lost(lab):
  good = runs.Survived('this')
  row = chaos.try_one('a', _troubled(good, good), lab)
  assert (row.tried, row.survived, row.lost, row.is_good) == (2, 2, 0, True)
  row = chaos.try_one('b', _troubled(good, runs.Survived('that', lost=3)), lab)
  assert (row.tried, row.survived, row.lost, row.is_good) == (2, 2, 3, False)
  row = chaos.try_one(
      'c', _troubled(good, runs.FailedError('differs', tried=4)), lab)
  assert (row.tried, row.survived, row.is_good) == (5, 1, False)
  assert row.problem == 'differs'
  row = chaos.try_one('d', _troubled(runs.NotTriedError('no root')), lab)
  assert (row.tried, row.is_good) == (0, True)
  assert 'not tried' in chaos.table_line(row) and 'no root' in row.problem
  row = chaos.try_one('e', _troubled(good, ValueError('odd')), lab)
  assert (row.tried, row.survived, row.is_good) == (2, 1, False)
  assert row.problem == 'ValueError: odd'


@pytest.mark.parametrize('lost', [0, 2])
def test_the_command_fails_if_anything_is_lost(
    lost, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(
      chaos, 'TROUBLES', {'a b': _troubled(runs.Survived('x', lost=lost))})
  monkeypatch.setattr(chaos.signal, 'signal', lambda *_: None)
  monkeypatch.setattr(sys, 'argv', [
      'chaos', f'--workdir={tmp_path}/runs', '--only=a_b',
      f'--json={tmp_path}/rows.json'])
  assert chaos.main() == (1 if lost else 0)
  (row,) = json.loads((tmp_path / 'rows.json').read_text())
  assert (row['trouble'], row['lost']) == ('a b', lost)
  assert ('nothing lost' in capsys.readouterr().out) == (not lost)


@pytest.mark.parametrize(('change', 'words'), [
    (lambda rows: rows[1].update(loss=2.5), 'rows of step 2'),
    (lambda rows: rows.pop(), '2 rows'),
    (lambda rows: rows.append(rows[-1]), '4 rows')])
def test_other_rows_are_another_end(change, words, tmp_path, monkeypatch):
  rows = [{'step': n, 'loss': n / 3, 'perf/seconds': n} for n in (1, 2, 3)]
  monkeypatch.setattr(runs, 'leaves', lambda _: {'a': np.zeros(3)})
  for name in ('a', 'b'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'metrics.jsonl').write_text(
        ''.join(json.dumps(row) + '\n' for row in rows))
    if name == 'a':
      runs.expect_same_end(tmp_path / 'a', tmp_path / 'a')
      change(rows)
  with pytest.raises(runs.FailedError, match=words):
    runs.expect_same_end(tmp_path / 'b', tmp_path / 'a')


def test_one_bit_is_another_end(monkeypatch):
  state = {'a': {'w': np.array([0.0, 1.0])}, 'b': {'w': np.array([-0.0, 1.0])}}
  monkeypatch.setattr(runs, 'leaves', lambda name: state[name])
  runs.expect_same_state('a', 'a')
  with pytest.raises(runs.FailedError, match='w differs'):
    runs.expect_same_state('a', 'b')


@pytest.mark.parametrize('trouble', [
    'kill -9', 'signal before the first step', 'workdir is read-only',
    pytest.param('all checkpoints damaged', marks=pytest.mark.slow)])
def test_a_real_run_survives(trouble, shared_lab):
  """What every change has to; the others take minutes."""
  row = chaos.try_one(trouble, chaos.TROUBLES[trouble], shared_lab)
  assert row.is_good, row.problem
  # Only a disk may be one that this machine cannot make.
  not_tried = row.problem.startswith('not tried')
  assert row.survived == (not not_tried), row.problem
  assert not not_tried or trouble == 'workdir is read-only'


def test_nothing_that_was_started_is_left(lab):
  """A launcher's processes are in groups of their own."""
  run = lab.start_command(
      ['bash', '-c', 'set -m; sleep 1000 & echo $!; wait'], 'launcher')
  child = int(run.until(lambda: run.text.strip(), 'its process'))
  lab.end()
  until = time.monotonic() + 60
  while not processes.has_ended(child):
    assert time.monotonic() < until
    time.sleep(0.05)


@pytest.mark.slow
def test_the_short_table(tmp_path, monkeypatch):
  monkeypatch.setattr(chaos.signal, 'signal', lambda *_: None)
  monkeypatch.setattr(
      sys, 'argv', ['chaos', '--short', f'--workdir={tmp_path}'])
  assert chaos.main() == 0


def test_files_are_damaged_in_the_way_that_is_said(tmp_path, lab):
  path = tmp_path / 'file'
  for damage, size in ((disks._flip, 100), (disks._cut, None)):
    path.write_bytes(bytes(100))
    damage(path, lab.rng)
    found = path.read_bytes()
    assert found != bytes(100)
    if size:
      assert len(found) == size and sum(map(int.bit_count, found)) == 1

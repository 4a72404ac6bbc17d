"""Records side by side, and their figures in words."""

import pytest

from byol_jax.evaluation import records


def _record(random_init, k=20, **metrics):
  metrics = metrics or {'knn/test_top1': 0.25 if random_init else 0.5}
  return {
      'protocol': 'knn', 'description': f'kNN, k={k}', 'settings': {'k': k},
      'headline': next(iter(metrics)), 'metrics': metrics, 'data': 'tfds:a',
      'train_split': 'train', 'valid_split': '', 'test_split': 'test',
      'num_train_examples': 9, 'num_test_examples': 4, 'image_size': 8,
      'test_crop_ratio': 1.0, 'encoder': 'resnet18', 'step': 7,
      'random_init': random_init}


def test_side_by_side():
  (row,) = records.compare([_record(True), _record(False)])
  assert (row.random_init, row.pretrained, row.gain) == (0.25, 0.5, 0.25)
  assert row.cells() == ('25.00', '50.00', '+25.00')
  assert row.data == 'tfds:a: 9 of train, 4 of test, at 8 px'


def test_unlike_settings_do_not_meet():
  rows = records.compare([_record(True, k=20), _record(False, k=10)])
  assert [row.cells() for row in rows] == [
      ('25.00', '–', '–'), ('–', '50.00', '–')]


def test_two_folders_of_one_name(tmp_path):
  """Neither takes the other's place; the same data takes its own."""
  for data, share in (('folder:a/x', 0.1), ('folder:b/x', 0.2),
                      ('folder:a/x', 0.3), ('folder:b/x', 0.4)):
    record = _record(False, **{'knn/test_top1': share}) | {'data': data}
    records.write(tmp_path, record)
  table = (tmp_path / 'evaluations' / 'table.md').read_text()
  assert table == records.markdown(records.read_all(tmp_path))
  assert '| 30.00 |' in table and '| 40.00 |' in table
  assert {r['data']: records.headline(r) for r in records.read_all(
      tmp_path)} == {'folder:a/x': 0.3, 'folder:b/x': 0.4}


def test_other_settings_do_not_take_a_records_place(tmp_path):
  for k, share in ((20, 0.1), (10, 0.2), (20, 0.3)):
    records.write(tmp_path, _record(False, k=k, **{'knn/test_top1': share}))
  assert {r['settings']['k']: records.headline(r)
          for r in records.read_all(tmp_path)} == {20: 0.3, 10: 0.2}


def test_what_is_no_record_is_passed_over(tmp_path, caplog):
  path = records.write(tmp_path, _record(False))
  (path.parent / 'notes.json').write_text('{}')
  (path.parent / 'list.json').write_text('[1]')
  path.with_name('cut.json').write_text(path.read_text()[:100])
  with caplog.at_level('WARNING', logger='absl'):
    assert records.read_all(tmp_path) == [_record(False)]
  assert [r.getMessage().split()[0] for r in caplog.records] == [
      str(path.with_name(name)) for name in (
          'cut.json', 'list.json', 'notes.json')]
  # Where it has the place of a record to be.
  path.write_text('')
  assert records.write(tmp_path, _record(False)) == path


def test_what_each_encoder_was_fitted_with():
  (row,) = records.compare([
      _record(True) | {'description': 'fitted, best: 0.1'},
      _record(False) | {'description': 'fitted, best: 0.2'}])
  assert row.description == 'fitted, best: 0.2; at random init best: 0.1'


def test_another_network_or_image_size_is_no_baseline():
  record = _record(True)
  for other in (record | {'architecture': {'resnet': {'width': 2.0}}},
                record | {'image_size': 9}):
    assert records.comparable(other) != records.comparable(record)
  # Maps are measured at sizes of their own.
  record |= {'protocol': 'segmentation'}
  assert records.comparable(record | {'image_size': 9}) == (
      records.comparable(record))


def test_errors_are_better_when_they_fall():
  metrics = {'depth/test_delta1': 0.5, 'depth/test_rms': 0.25}
  rows = records.compare([
      _record(False, **metrics),
      _record(True, **metrics | {'depth/test_rms': 0.75})])
  assert [row.cells() for row in rows] == [
      ('50.00', '50.00', '0.00'), ('0.750', '0.250', '-0.500')]


def test_markdown():
  assert records.markdown([_record(True), _record(False)]).splitlines()[2:] == [
      '| kNN, k=20 | tfds:a: 9 of train, 4 of test, at 8 px | top-1 | '
      '25.00 | 50.00 | +25.00 |']


@pytest.mark.parametrize('metric, words', [
    ('knn/test_top1', 'top-1'), ('linear/test_top5', 'top-5'),
    ('semi_supervised/1pct_test_top1', '1pct top-1'),
    ('finetune/test_mean_per_class', 'mean per class'),
    ('segmentation/frozen_test_miou', 'frozen mIoU')])
def test_names(metric, words):
  assert records.name_metric(metric) == words

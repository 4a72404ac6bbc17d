"""Rows of both files: written, read back, dropped where a run goes on."""

import contextlib
import json
import pathlib
import resource
import signal
import tempfile

from absl.testing import absltest
import numpy as np
import tensorflow as tf

from byol_jax.evaluation import history
from byol_jax.training import metrics


def _write(workdir, first_step, steps):
  writer = metrics.MetricWriter(workdir, first_step)
  for step in steps:
    writer.write(step, {'a': step / 2})
    writer.write_distributions(step, {
        'bars': metrics.Distribution(np.array([step, 1 / 3]), -1.0, 1.0)})
  writer.close()


class MetricWriterTest(absltest.TestCase):

  def test_rows_of_a_lost_run_are_dropped(self):
    workdir = tempfile.mkdtemp()
    _write(workdir, 0, [10, 20, 30])
    with open(f'{workdir}/distributions.jsonl', 'a') as file:
      file.write('{"step": 40, "ba')  # killed while writing
    _write(workdir, 20, [25])
    self.assertEqual(history.read_distributions(workdir), {
        'bars': ([10, 20, 25], [[n, 0.3333] for n in (10, 20, 25)])})
    self.assertEqual(
        history.read_curves(workdir), {'a': ([10, 20, 25], [5, 10, 12.5])})

  def test_what_is_not_finite_stays_json(self):
    workdir = tempfile.mkdtemp()
    writer = metrics.MetricWriter(workdir, 0)
    writer.write_distributions(1, {
        'bars': metrics.Distribution(np.array([np.nan]), 0.0, 1.0)})
    writer.close()
    with open(f'{workdir}/distributions.jsonl') as file:
      self.assertEqual(file.read(), '{"step": 1, "bars": ["nan"]}\n')

  def test_no_distributions_are_no_row(self):
    workdir = tempfile.mkdtemp()
    writer = metrics.MetricWriter(workdir, 0)
    writer.write_distributions(1, {})
    writer.close()
    self.assertEqual(history.read_distributions(workdir), {})

  def test_rows_that_do_not_fit_are_written_when_they_do(self):
    """Never twice, never half, in order; where it stops is said once."""
    workdir = tempfile.mkdtemp()
    path = pathlib.Path(workdir) / 'metrics.jsonl'
    writer = metrics.MetricWriter(workdir, 0)
    writer.write(1, {'a': 1.0})
    before = path.read_bytes()
    with self.assertLogs(level='ERROR') as logs:
      with _at_most(len(before) + 5):  # bytes a file, so half a row fits
        for step in (2, 3):
          writer.write(step, {'a': float(step)})
        self.assertEqual(path.read_bytes(), before)
      writer.write(4, {'a': 4.0})
    writer.close()
    rows = list(map(json.loads, path.read_text().splitlines()))
    self.assertEqual([row['step'] for row in rows], [1, 2, 3, 4])
    of_rows = [line for line in logs.output if 'metrics.jsonl' in line]
    self.assertLen(of_rows, 2)
    self.assertIn('cannot be written', of_rows[0])
    self.assertIn('can be written again', of_rows[1])
    self.assertLessEqual(
        {1, 2, 3, 4}, set(_read_event_steps(workdir)))

  def test_rows_that_never_fit_are_counted(self):
    workdir = tempfile.mkdtemp()
    writer = metrics.MetricWriter(workdir, 0)
    with self.assertLogs(level='ERROR') as logs, _at_most(0):
      writer.write(1, {'a': 1.0})
      writer.close()
    self.assertTrue(any(
        '1 rows of metrics.jsonl were lost' in line for line in logs.output))

  def test_dropping_rows_needs_no_space(self):
    workdir = tempfile.mkdtemp()
    _write(workdir, 0, [10, 20, 30])
    with _at_most(0):
      metrics.MetricWriter(workdir, 20).close()
    self.assertEqual(history.read_curves(workdir), {'a': ([10, 20], [5, 10])})

  def test_tensorboard_gets_the_bars(self):
    workdir = tempfile.mkdtemp()
    _write(workdir, 0, [7])
    (buckets,) = _read_event_tensors(workdir, 'bars')
    np.testing.assert_allclose(buckets, [[-1, 0, 7], [0, 1, 1 / 3]])


@contextlib.contextmanager
def _at_most(size):
  """Files of this process cannot grow beyond, as if the disk were full."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def _read_event_steps(workdir):
  """Of all event files, each as far as TensorBoard can read it."""
  for path in pathlib.Path(workdir).glob('events.out.tfevents.*'):
    with contextlib.suppress(tf.errors.DataLossError):
      for event in tf.compat.v1.train.summary_iterator(str(path)):
        if event.summary.value:
          yield event.step


def _read_event_tensors(workdir, tag):
  (path,) = pathlib.Path(workdir).glob('events.out.tfevents.*')
  for event in tf.compat.v1.train.summary_iterator(str(path)):
    for value in event.summary.value:
      if value.tag == tag:
        yield tf.make_ndarray(value.tensor)


if __name__ == '__main__':
  absltest.main()

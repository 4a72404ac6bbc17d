"""Rows of both files: written, read back, dropped where a run goes on."""

import pathlib
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

  def test_tensorboard_gets_the_bars(self):
    workdir = tempfile.mkdtemp()
    _write(workdir, 0, [7])
    (buckets,) = _read_event_tensors(workdir, 'bars')
    np.testing.assert_allclose(buckets, [[-1, 0, 7], [0, 1, 1 / 3]])


def _read_event_tensors(workdir, tag):
  (path,) = pathlib.Path(workdir).glob('events.out.tfevents.*')
  for event in tf.compat.v1.train.summary_iterator(str(path)):
    for value in event.summary.value:
      if value.tag == tag:
        yield tf.make_ndarray(value.tensor)


if __name__ == '__main__':
  absltest.main()

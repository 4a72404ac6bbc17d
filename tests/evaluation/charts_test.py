"""Charts: ticks, thinning, and what is drawn."""

import re
import xml.etree.ElementTree as ElementTree

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from byol_jax.evaluation import charts


class ChartsTest(parameterized.TestCase):

  @parameterized.parameters(
      (0, 1), (0.99, 1.0), (-3, 17), (5, 5), (0, 0), (1e-7, 3e-7), (0, 312784))
  def test_ticks_span_the_range(self, low, high):
    ticks = charts.nice_ticks(low, high)
    self.assertLessEqual(ticks[0], low)
    self.assertGreaterEqual(ticks[-1], high - 1e-12)
    self.assertBetween(len(ticks), 2, 9)
    np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0])

  def test_thin_keeps_the_mean_and_the_end(self):
    steps = list(range(1, 1001))
    points = charts.thin((steps, [float(s) for s in steps]), 100)
    self.assertLen(points, 100)
    self.assertEqual(points[-1][0], 1000)
    self.assertAlmostEqual(np.mean([y for _, y in points]), 500.5)

  def test_leaves_out_what_is_not_finite(self):
    points = charts.thin(([1, 2, 3], [1.0, float('nan'), float('inf')]))
    self.assertEqual(points, [(1, 1.0)])

  def test_nothing_to_draw(self):
    self.assertEqual(charts.line_chart('x', {}), '')
    self.assertEqual(charts.line_chart('x', {'a': ([1], [np.nan])}), '')

  @parameterized.parameters(1, 2, 500)
  def test_is_well_formed_and_within_its_frame(self, count):
    drawn = charts.line_chart(
        'a < b & c', {'<one>': (list(range(count)), [0.5] * count)}, scale=100,
        unit=' %')
    root = ElementTree.fromstring(drawn)
    (line,) = root.iter('polyline')
    for x, y in re.findall(r'([-\d.]+),([-\d.]+)', line.get('points')):
      self.assertBetween(float(x), 0, 420)
      self.assertBetween(float(y), 0, 210)
    self.assertIn('50 %', ''.join(root.itertext()))

  def test_over_what_is_no_step(self):
    """x spans the curve alone; the last value is not singled out."""
    drawn = charts.line_chart(
        'x', {'a': ([-1, 0, 1], [0.1, 0.2, 0.7])}, over_steps=False)
    root = ElementTree.fromstring(drawn)
    (line,) = root.iter('polyline')
    xs = [float(x) for x in re.findall(r'([-\d.]+),', line.get('points'))]
    self.assertEqual(xs, [52, 229, 406])
    self.assertNotIn('0.7', root.find('div').find('span').itertext())
    self.assertEmpty(list(root.iter('circle')))
    texts = [e.text for e in root.iter('text')]
    self.assertContainsSubset(['-1', '0', '1'], texts)

  def test_steps_begin_at_zero(self):
    drawn = charts.line_chart('x', {'a': ([50, 100], [1.0, 2.0])})
    (line,) = ElementTree.fromstring(drawn).iter('polyline')
    self.assertEqual(
        re.findall(r'([-\d.]+),', line.get('points')), ['229.0', '406.0'])

  def test_outline(self):
    xs, ys = charts.outline([0.25, 0.75], -1, 1)
    self.assertEqual(xs, [-1, 0, 0, 1])
    self.assertEqual(ys, [0.25, 0.25, 0.75, 0.75])

  @parameterized.parameters(
      (0.0, '0'), (12_000, '12k'), (3.14159, '3.142'), (2.5e-5, '2.5e-5'),
      (1_281_167, '1.28M'), (float('nan'), 'nan'))
  def test_numbers(self, value, expected):
    self.assertEqual(charts.format_number(value), expected)


if __name__ == '__main__':
  absltest.main()

"""Line charts as inline SVG: no script, no font, nothing to fetch."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import html
import math

from byol_jax.evaluation.history import Curve

# Told apart by colour-blind readers too, on white.
_COLORS = ('#2563eb', '#d97706', '#059669', '#9333ea')
_WIDTH, _HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 30
_MAX_POINTS = 300


def format_number(value: float) -> str:
  """A few significant digits, 12k for 12000."""
  if not math.isfinite(value):
    return str(value)
  for factor, suffix in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if abs(value) >= factor:
      return f'{value / factor:.3g}{suffix}'
  if value and abs(value) < 1e-3:
    return f'{value:.1e}'.replace('e-0', 'e-')
  return f'{value:.4g}'


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
  """Round numbers that span [low, high], about `count` steps apart."""
  if high <= low:
    margin = abs(low) * 0.1 or 1.0
    low, high = low - margin, high + margin
  rough = (high - low) / count
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
  first = math.floor(low / step + 1e-9)
  last = math.ceil(high / step - 1e-9)
  return [n * step for n in range(first, last + 1)]


def thin(curve: Curve, count: int = _MAX_POINTS) -> list[tuple[float, float]]:
  """Points (step, value), finite ones, averaged to at most `count`."""
  points = [
      (step, value) for step, value in zip(*curve, strict=True)
      if math.isfinite(value)]
  size = -(-len(points) // count) or 1
  groups = [points[i:i + size] for i in range(0, len(points), size)]
  # A group's step is its last, so that the curve ends where the run did.
  return [
      (group[-1][0], sum(value for _, value in group) / len(group))
      for group in groups]


def outline(heights: Sequence[float], low: float, high: float) -> Curve:
  """A histogram's outline: bars of equal width over [low, high]."""
  width = (high - low) / len(heights)
  xs, ys = [], []
  for n, height in enumerate(heights):
    xs += [low + n * width, low + (n + 1) * width]
    ys += [height, height]
  return xs, ys


def line_chart(
    title: str, curves: Mapping[str, Curve], *, note: str = '',
    low: float | None = None, high: float | None = None, scale: float = 1.0,
    unit: str = '', over_steps: bool = True,
) -> str:
  """Draws curves over steps, or over any other quantity.

  Args:
    title: of the chart.
    curves: by their name in the legend; empty ones are left out.
    note: a sentence below: what is good.
    low: the y axis reaches down to this, if not further.
    high: and up to this.
    scale: multiplies every value (100 for percent).
    unit: after the values of the legend.
    over_steps: x begins at 0 and a curve's last value is what counts. If
      not, x begins where the curves do and no value stands out.

  Returns:
    A `<figure>`, or '' if there is nothing to draw.
  """
  lines = {name: thin(curve) for name, curve in curves.items()}
  lines = {
      name: [(x, scale * y) for x, y in points]
      for name, points in lines.items() if points}
  if not lines:
    return ''
  ys = [y for points in lines.values() for _, y in points]
  y_ticks = nice_ticks(
      min([*ys, low] if low is not None else ys),
      max([*ys, high] if high is not None else ys))
  x_first, x_last = _span(lines.values(), over_steps)
  x_ticks = [
      x for x in nice_ticks(x_first, x_last) if x_first <= x <= x_last]

  def place(x: float, y: float) -> tuple[float, float]:
    share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
    return (
        _LEFT + (x - x_first) / (x_last - x_first) * (
            _WIDTH - _LEFT - _RIGHT),
        _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM))

  parts = _axes(x_ticks, y_ticks, place)
  legend = []
  for (name, points), color in zip(
      lines.items(), _COLORS * len(lines), strict=False):
    placed = [place(x, y) for x, y in points]
    parts += _line(placed, color, with_dots=over_steps)
    last = f' <b>{points[-1][1]:.4g}{unit}</b>' if over_steps else ''
    legend.append(
        f'<span><i style="background:{color}"></i>{html.escape(name)}{last}'
        '</span>')
  figure_note = f'<p class="note">{html.escape(note)}</p>' if note else ''
  return (
      f'<figure><figcaption>{html.escape(title)}</figcaption>'
      f'<div class="legend">{"".join(legend)}</div>'
      f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
      f'aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
      f'{figure_note}</figure>')


def _span(
    lines: Iterable[Sequence[tuple[float, float]]], over_steps: bool
) -> tuple[float, float]:
  """Where the x axis begins and ends."""
  xs = [x for points in lines for x, _ in points]
  first, last = 0.0 if over_steps else min(xs), max(xs)
  return first, last if last > first else first + 1


def _axes(
    x_ticks: Sequence[float], y_ticks: Sequence[float], place) -> list[str]:
  """Horizontal grid lines and the numbers of both axes."""
  parts = []
  for y in y_ticks:
    top = place(0, y)[1]
    parts.append(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
        f'y1="{top:.1f}" y2="{top:.1f}"/><text x="{_LEFT - 6}" '
        f'y="{top + 4.5:.1f}" text-anchor="end">{format_number(y)}</text>')
  for x in x_ticks:
    left, _ = place(x, y_ticks[0])
    parts.append(
        f'<text x="{left:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f'{format_number(x)}</text>')
  return parts


def _line(
    placed: Sequence[tuple[float, float]], color: str, *, with_dots: bool
) -> list[str]:
  points = ' '.join(f'{x:.1f},{y:.1f}' for x, y in placed)
  line = f'<polyline points="{points}" stroke="{color}"/>'
  if not with_dots:
    return [line]
  dots = placed if len(placed) <= 12 else placed[-1:]
  circles = [
      f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{color}"/>'
      for x, y in dots]
  return [line, *circles]

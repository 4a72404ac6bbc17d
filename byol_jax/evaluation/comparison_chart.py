"""A comparison as a picture: each row's accuracy, trained and untrained."""

import io
import textwrap

from etils import epath
from matplotlib import axes as axes_lib
from matplotlib import figure
from matplotlib import lines

from byol_jax import files
from byol_jax.evaluation import comparison as comparison_lib
from byol_jax.evaluation.comparison import Comparison
from byol_jax.evaluation.comparison import Row

# Okabe and Ito's colours, told apart by colour-blind readers too; what they
# tell is told by the markers' shapes as well.
_TRAINED, _COLLAPSED, _UNTRAINED, _GRID = (
    '#0072b2', '#d55e00', '#777777', '#e4e4e4')
_WIDTH, _ROW_HEIGHT, _REST = 9.0, 0.36, 1.15  # inches
_DPI = 200


def draw(comparison: Comparison, path: epath.PathLike) -> bool:
  """Draws a PNG, 1800 pixels wide; nothing if no run has an accuracy.

  One panel a protocol, one line a row: from the untrained network's accuracy
  (hollow) to the trained one's (filled; a cross where all runs collapsed),
  with a small dot for each seed where there are several.

  Args:
    comparison: see `comparison`.
    path: of the picture.

  Returns:
    Whether there was something to draw.
  """
  rows = comparison['rows']
  measured = comparison_lib.measured(comparison)
  if not measured:
    return False
  picture = figure.Figure(
      (_WIDTH, _ROW_HEIGHT * len(rows) + _REST), layout='constrained')
  panels = picture.subplots(
      1, len(measured), sharex=True, sharey=True, squeeze=False)[0]
  for panel, name in zip(panels, measured, strict=True):
    _draw_panel(panel, rows, name)
  highest = max(panel.dataLim.xmax for panel in panels)
  panels[0].set_xlim(0.0, 1.13 * highest or 1.0)
  panels[0].set_yticks(range(len(rows)), [row['name'] for row in rows])
  panels[0].set_ylim(len(rows) - 0.5, -0.5)
  picture.legend(
      handles=_legend(), loc='outside lower center', ncols=3, frameon=False,
      fontsize=9.5)
  # Without the version of what wrote it, so that equal pictures are equal.
  contents = io.BytesIO()
  picture.savefig(
      contents, format='png', dpi=_DPI, metadata={'Software': None})
  files.write_whole(path, contents.getvalue())
  return True


def _draw_panel(panel: axes_lib.Axes, rows: list[Row], name: str) -> None:
  for place, row in enumerate(rows):
    if name in row['figures']:
      _draw_row(panel, place, row, name)
    else:
      outcome = textwrap.shorten(
          comparison_lib.describe_outcome(row), 42, placeholder=' ...')
      panel.annotate(
          outcome, (0.0, place), (6, 0), textcoords='offset points',
          va='center', fontsize=9, color=_COLLAPSED, style='italic')
  panel.set_title(
      f'{comparison_lib.PROTOCOLS[name]}, top-1 in %', fontsize=11)
  panel.grid(axis='x', color=_GRID)
  panel.set_axisbelow(True)
  panel.tick_params(length=0, labelsize=10)
  panel.spines[:].set_visible(False)


def _draw_row(
    panel: axes_lib.Axes, place: int, row: Row, name: str) -> None:
  runs = [run for run in row['runs'] if name in run['figures']]
  collapsed = all(run['collapsed'] for run in runs)
  color = _COLLAPSED if collapsed else _TRAINED
  mean = row['figures'][name]['mean']
  untrained = row['figures'].get(f'random_init_{name}', {}).get('mean', mean)
  panel.plot(
      [untrained, mean], [place] * 2, color=color, lw=2, alpha=0.45, zorder=2)
  if f'random_init_{name}' in row['figures']:
    panel.plot(
        untrained, place, 'o', ms=6.5, mfc='white', mec=_UNTRAINED, mew=1.5,
        zorder=3)
  seeds = [run['figures'][name] for run in runs]
  if len(seeds) > 1:
    panel.plot(
        seeds, [place] * len(seeds), 'o', ms=3.5, color=color, alpha=0.6,
        mew=0, zorder=4)
  panel.plot(
      mean, place, 'X' if collapsed else 'o', ms=8, color=color, mec='white',
      mew=0.8, zorder=5)
  # Beyond the marker, seen from the untrained network.
  end, side = (max(seeds), 1) if mean >= untrained else (min(seeds), -1)
  panel.annotate(
      f'{mean:.1f}', (end, place), (8 * side, 0), textcoords='offset points',
      ha='left' if side > 0 else 'right', va='center', fontsize=9.5,
      color=color)


def _legend() -> list[lines.Line2D]:
  def marker(shape: str, label: str, **style: str) -> lines.Line2D:
    return lines.Line2D([], [], ls='', marker=shape, ms=7, label=label, **style)

  return [
      marker('o', 'pretrained', color=_TRAINED),
      marker('X', 'pretrained, collapsed', color=_COLLAPSED),
      marker('o', 'same network untrained', mfc='white', mec=_UNTRAINED)]

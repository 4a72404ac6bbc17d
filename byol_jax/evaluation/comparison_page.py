"""A comparison as a page of Markdown, made from its JSON alone."""

from collections.abc import Iterator
from collections.abc import Mapping
import json
import re
import textwrap
from typing import Any

from etils import epath

from byol_jax import files
from byol_jax.evaluation import comparison as comparison_lib
from byol_jax.evaluation import comparison_chart
from byol_jax.evaluation.comparison import Comparison
from byol_jax.evaluation.comparison import Row

# Fields that are named once where they are set alike.
_TOGETHER = (('view1|view2', 'view*'), (
    'encoder_norm|projector_norm|predictor_norm', '*_norm'))


def write(output: epath.PathLike) -> list[epath.Path]:
  """Writes OUTPUT.md and OUTPUT.png from OUTPUT.json.

  Args:
    output: path without an ending. What OUTPUT_findings.md holds, if there is
      such a file, is shown at the top of the page.

  Returns:
    What was written. No figure where no run has an accuracy.

  Raises:
    ConfigError: if there is no OUTPUT.json.
  """
  comparison = comparison_lib.read(f'{output}.json')
  findings = epath.Path(f'{output}_findings.md')
  picture = epath.Path(f'{output}.png')
  page = epath.Path(f'{output}.md')
  drawn = comparison_chart.draw(comparison, picture)
  files.write_whole(page, render(
      comparison, page.stem,
      findings=findings.read_text() if findings.exists() else '',
      picture=picture.name if drawn else ''))
  return [page, picture] if drawn else [page]


def render(
    comparison: Comparison, name: str, *, findings: str = '',
    picture: str = '',
) -> str:
  """Writes the page.

  Args:
    comparison: see `comparison`.
    name: of its file, without an ending; the title too.
    findings: Markdown written by people, shown first.
    picture: file name of the figure, or ''.

  Returns:
    Markdown.
  """
  title = name.replace('_', ' ').capitalize()
  made = f' of the runs of `{comparison["command"]}`' if (
      comparison['command']) else ''
  parts = [
      f'# {title}',
      f'Written by `python -m byol_jax.compare` from [{name}.json]'
      f'({name}.json){made}. Words belong into `{name}_findings.md`, which is '
      'shown here first: what is changed here is lost.']
  if findings.strip():
    parts.append(findings.strip())
  if picture:
    parts.append(f'![Accuracy of each row]({picture})')
  parts += [_table(comparison), '\n'.join(_notes(comparison))]
  parts += _listed('Published figures, and where', {
      row['name']: row['published'] for row in comparison['rows']})
  runs = [run for row in comparison['rows'] for run in row['runs']]
  parts += _listed('Signs of collapse', {
      run['directory']: '; '.join(run['signs'])
      for run in runs if not run['trouble']})
  parts += _listed('What stopped runs', {
      run['directory']: textwrap.shorten(
          run['error'].removeprefix('error: '), 300, placeholder=' ...')
      for run in runs})
  return '\n\n'.join(parts) + '\n'


def _table(comparison: Comparison) -> str:
  measured = comparison_lib.measured(comparison)
  rows = [_cells(row, measured) for row in comparison['rows']]
  words = ('', 'differs in', 'collapsed', 'published')
  lines = [list(rows[0]), [
      '---' if name in words else '---:' for name in rows[0]]]
  for row in rows:
    lines.append([cell.replace('|', '\\|') for cell in row.values()])
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _cells(row: Row, measured: list[str]) -> dict[str, str]:
  """A row's cells by the names of their columns."""
  differs = describe_differences(row['differs'])
  started = len(row['runs'])
  done = sum(not run['trouble'] for run in row['runs'])
  outcome = comparison_lib.describe_outcome(row)
  cells = {
      '': f'**{row["name"]}**',
      'differs in': f'`{differs}`' if differs else '',
      'seeds': f'{done}' if done == started else f'{done} of {started}'}
  for name in measured:
    protocol = comparison_lib.PROTOCOLS[name]
    cells |= {
        f'{protocol} %': _figure(row, name),
        f'{protocol}, untrained': _figure(row, f'random_init_{name}'),
        f'{protocol}, gain': _figure(row, f'gain_{name}', '+.1f')}
  return cells | {
      'rank of embedding': _figure(row, 'embedding_rank'),
      'rank of projection': _figure(row, 'projection_rank'),
      'cosine of different images': _figure(row, 'different_cosine', '.2f'),
      'collapsed': outcome if outcome == 'no' else f'**{outcome}**',
      'published': row['published'].partition(' (')[0] or '–',
      'minutes': f'{row["figures"]["seconds"]["mean"] / 60:.1f}'}


def _figure(row: Row, name: str, form: str = '.1f') -> str:
  """Mean and spread, or a dash."""
  figure = row['figures'].get(name)
  if figure is None:
    return '–'
  text = f'{figure["mean"]:{form}}'
  if figure['spread'] is not None:
    text += f' ± {figure["spread"]:{form.lstrip("+")}}'
  return text


def describe_differences(differs: Mapping[str, Any]) -> str:
  """`name=value`; what is alike in both views, or all norms, named once."""
  short = {}
  for name, value in differs.items():
    for members, together in _TOGETHER:
      wanted = [re.sub(members, m, name) for m in members.split('|')]
      if name in wanted and all(
          differs.get(other) == value for other in wanted):
        name = re.sub(members, together, name)
    short[name] = value if isinstance(value, str) else json.dumps(value)
  return ', '.join(f'{name}={value}' for name, value in short.items())


def _notes(comparison: Comparison) -> Iterator[str]:
  """What the runs were, and what the columns of the table mean."""
  yield from _describe_runs(comparison)
  measured_on = [*comparison['protocols'], *comparison['examples']]
  if measured_on:
    yield (
        '- Top-1 on the test split, of the frozen online encoder: '
        f'{"; ".join(measured_on)}.')
  if any(len(row['runs']) > 1 for row in comparison['rows']):
    yield (
        '- A figure is the mean over seeds, after ± their sample standard '
        'deviation.')
  yield (
      '- Untrained is the same network at random initialisation, measured '
      'alike; gain is the difference.')
  yield (
      '- Rank is the effective rank on test images (Roy and Vetterli 2007): '
      'how many directions they use.')
  yield (
      '- Cosine of different images: the mean over pairs of views of different '
      'images, of their projections. 0 where images are told apart, 1 where '
      'all are one.')
  if any(comparison_lib.FEW_DIRECTIONS in comparison_lib.describe_outcome(row)
         for row in comparison['rows']):
    yield (
        '- Collapsed is to a point, or of the embedding. Few directions: '
        'projections use fewer than 3 and are spread along them (dimensional '
        'collapse, Jing et al. 2022).')
  yield (
      '- Differs in: the fields that are not as in '
      f'{comparison["baseline"]}; those that all runs share are in the JSON.')
  if any(row['published'] for row in comparison['rows']):
    yield (
        '- Published figures, in %, are of ImageNet, ResNet-50, 300 epochs, '
        'linear, unless they say otherwise: compare signs and order, not '
        'levels.')


def _describe_runs(comparison: Comparison) -> Iterator[str]:
  """Data, network, length, seeds, time."""
  common = comparison['common']
  runs = [run for row in comparison['rows'] for run in row['runs']]

  def field(name: str) -> str:
    return str(common.get(name, 'several'))

  yield (
      f'- Data: {field("data")}, views of {field("image_size")} pixels. '
      f'Network: {field("encoder")} of width {field("resnet.width")}, stem '
      f'{field("resnet.stem")}; optimizer {field("optimizer")}.')
  steps = {run['step'] for run in runs if not run['trouble']}
  if steps:
    # total_steps, where it is set, wins over num_epochs.
    epochs = '' if common.get('total_steps', '') is not None else (
        f'{field("num_epochs")} epochs, ')
    yield (
        f'- Length: {epochs}'
        f'{" to ".join(map(str, sorted({min(steps), max(steps)})))} steps of '
        f'{field("batch_size")} images.')
  seeds = sorted({run['seed'] for run in runs if run['seed'] is not None})
  minutes = sum(run['figures']['seconds'] for run in runs) / 60
  yield (
      f'- Runs: {len(runs)}, seeds {", ".join(map(str, seeds)) or "unknown"}, '
      f'{minutes:.0f} minutes in all; minutes in the table are of one run, '
      'probes included.')


def _listed(title: str, texts: Mapping[str, str]) -> Iterator[str]:
  """A list of those that are not empty, if there is any."""
  lines = [f'- {name}: {text}' for name, text in texts.items() if text]
  if lines:
    yield f'{title}:\n\n' + '\n'.join(lines)

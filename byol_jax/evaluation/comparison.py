"""Runs side by side: what each changes, what it reaches, what it costs.

A comparison is a dictionary of JSON's types, made from the workdirs in one
directory, finished or not. Its page and its figure are made from it alone
(`comparison_page`, `comparison_chart`), so they can be made again without the
runs:

    {'command': what made the runs,
     'protocols': [protocols with their settings],
     'examples': [what they learned from and were measured on],
     'common': {field: value that all runs share},
     'baseline': name of the row that the others are compared with,
     'rows': [{'name', 'published', 'differs': {field: value},
               'figures': {figure: {'mean', 'spread', 'count'}},
               'runs': [see `_read_run`]}]}

Runs that differ in nothing but the seed are one row.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import json
import math
import re
import statistics
import textwrap
from typing import Any

from etils import epath

from byol_jax import config as config_lib
from byol_jax import files
from byol_jax.evaluation import collapse
from byol_jax.evaluation import history
from byol_jax.evaluation import records as records_lib

Comparison = dict[str, Any]
Row = Mapping[str, Any]

# How people write the protocols, in the order to show them in.
PROTOCOLS = {'linear_top1': 'linear', 'knn_top1': 'kNN'}

# Fields that a run's figures do not depend on, and the seed.
_NO_SETTINGS = ('name', 'published', 'data_dir', 'seed')


def compare(
    directory: epath.PathLike, *, first: Sequence[str] = (),
    command: str = '',
) -> Comparison:
  """Reads all runs in `directory`.

  Args:
    directory: whose subdirectories are workdirs, at any depth of one.
    first: names of the first rows, in order; others follow by name. The first
      row is the one that the others are compared with.
    command: what made the runs, for the page.

  Returns:
    See the file's docstring.

  Raises:
    ConfigError: if there is no run, or a run's JSON cannot be read.
  """
  directory = epath.Path(directory)
  workdirs = sorted(
      path for path in (directory.iterdir() if directory.is_dir() else ())
      if (path / 'config.json').exists() or (path / 'failed.txt').exists())
  if not workdirs:
    raise config_lib.ConfigError(
        f'no runs in {directory}: expected the --workdir of at least one '
        'byol_jax.pretrain run in it')
  configs = [_read_config(path) for path in workdirs]
  runs = [_read_run(*pair) for pair in zip(workdirs, configs, strict=True)]
  rows = _sort(_group(runs, configs), first)
  settings = [row.pop('settings') for row in rows]
  known = [row for row in settings if row]
  base = known[0] if known else {}
  for row, fields in zip(rows, settings, strict=True):
    row['differs'] = {
        name: fields.get(name) for name in sorted(fields | base)
        if fields and fields.get(name) != base.get(name)}
  records = [
      record for path in workdirs for record in records_lib.read_all(path)
      if not record['random_init']]
  return {
      'command': command,
      'protocols': sorted({r['description'] for r in records}),
      'examples': sorted({_describe_examples(r) for r in records}),
      'common': {
          name: value for name, value in base.items()
          if all(name in fields and fields[name] == value
                 for fields in known)},
      'baseline': next(
          (row['name'] for row, fields in zip(rows, settings, strict=True)
           if fields), rows[0]['name']),
      'rows': rows,
  }


def write(comparison: Comparison, path: epath.PathLike) -> None:
  """Writes a comparison as JSON."""
  text = json.dumps(comparison, indent=1, allow_nan=False)
  files.write_whole(path, text + '\n')


def read(path: epath.PathLike) -> Comparison:
  """What `write` wrote. Raises ConfigError if it is not there."""
  if not epath.Path(path).exists():
    raise config_lib.ConfigError(
        f'{path} does not exist: give --runs=DIR, the runs to make it from')
  return _read_json(epath.Path(path))


def measured(comparison: Comparison) -> list[str]:
  """Those of `PROTOCOLS` that some row has a figure of."""
  return [
      name for name in PROTOCOLS
      if any(name in row['figures'] for row in comparison['rows'])]


# Of a run that has signs of collapse and has not collapsed to a point.
FEW_DIRECTIONS = 'few directions'


def describe_outcome(row: Row) -> str:
  """Whether its runs collapsed, or why they have no result."""
  runs = row['runs']
  done = [_outcome(run) for run in runs if not run['trouble']]
  words = list(done[:1])
  if len(set(done)) > 1:
    words = [f'{done.count("yes")} of {len(done)}'] if 'yes' in done else []
    if FEW_DIRECTIONS in done:
      words.append(
          f'{FEW_DIRECTIONS}: {done.count(FEW_DIRECTIONS)} of {len(done)}')
  troubles = dict.fromkeys(run['trouble'] for run in runs if run['trouble'])
  for trouble in troubles:
    seeds = [str(run['seed']) for run in runs if run['trouble'] == trouble]
    which = '' if len(seeds) == len(runs) else f' (seed {", ".join(seeds)})'
    words.append(trouble + which)
  return '; '.join(words)


def _outcome(run: Mapping[str, Any]) -> str:
  if run['collapsed']:
    return 'yes'
  return FEW_DIRECTIONS if run['signs'] else 'no'


def _read_json(path: epath.Path) -> dict[str, Any]:
  """The content of a file, {} if there is none."""
  if not path.exists():
    return {}
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise config_lib.ConfigError(
        f'{path} is not JSON ({error}): remove it, or its run') from error


def _read_config(workdir: epath.Path) -> dict[str, Any]:
  """A run's fields, flat; as they were, whatever fields exist by now."""
  return config_lib.flatten(_read_json(workdir / 'config.json'))


def _read_run(
    workdir: epath.Path, fields: Mapping[str, Any]) -> dict[str, Any]:
  """One run.

  Returns:
    `directory`, its name; `seed`; `step`, the last with a metric; `trouble`,
    '' of a finished run and otherwise what became of it; `error`, the whole
    message of one that failed; `collapsed` and `signs`, see `collapse.judge`;
    `figures`, by name: whatever `result.json` holds, `gain_linear_top1` and
    `gain_knn_top1` over random initialisation, ranks, and the mean cosine of
    different images' projections; or `seconds` alone.
  """
  result = _read_json(workdir / 'result.json')
  curves = history.read_curves(workdir)
  last = history.last_values(curves)
  step = max((steps[-1] for steps, _ in curves.values()), default=0)
  error = workdir / 'failed.txt'
  error = error.read_text().strip() if error.exists() and not result else ''
  # From its figures, so that all runs are judged by one rule, whichever wrote
  # their result; of a run whose figures are lost, what it said itself.
  judged = collapse.judge(last) or {
      'collapsed': bool(result.get('collapsed')),
      'signs': result.get('signs', [])}
  return {
      'directory': workdir.name,
      'seed': fields.get('seed'),
      'step': step,
      'trouble': '' if result else _describe_trouble(error, last, step),
      'error': error,
      'figures': _read_figures(result, last),
  } | judged


def _read_figures(
    result: Mapping[str, Any], last: Mapping[str, float]) -> dict[str, float]:
  """The final ones; of a run that did not end, what it cost."""
  figures = {'seconds': last.get('perf/seconds', 0.0)}
  if result:
    figures |= {
        'embedding_rank': last.get('diagnostics/embedding_rank'),
        'projection_rank': last.get('diagnostics/projection_rank'),
        'different_cosine': last.get('pairs/different_cosine')} | result
  for name in PROTOCOLS:
    if {name, f'random_init_{name}'} <= result.keys():
      figures[f'gain_{name}'] = round(
          result[name] - result[f'random_init_{name}'], 2)
  return {
      name: value for name, value in figures.items()
      if isinstance(value, int | float) and not isinstance(value, bool)
      and math.isfinite(value)}


def _describe_trouble(
    error: str, last: Mapping[str, float], step: int) -> str:
  """Why there is no result, in a few words."""
  diverged = re.search(r'NaN or infinite in step (\d+)', error)
  if diverged:
    return f'diverged at step {diverged[1]}'
  if error:
    line = textwrap.shorten(
        error.removeprefix('error: '), 80, placeholder=' ...')
    return f'failed: {line}'
  if not all(map(math.isfinite, last.values())):
    return f'diverged at step {step}'
  return f'unfinished, at step {step}'


def _describe_examples(record: records_lib.Record) -> str:
  return (
      f'{record["num_train_examples"]} labelled images to learn from and '
      f'{record["num_test_examples"]} to measure on, at '
      f'{record["image_size"]} pixels')


def _group(
    runs: Sequence[dict[str, Any]], configs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
  """Rows of runs that have a name and all settings in common.

  A run that failed before it wrote its config joins the first of its name.
  """
  rows = []
  # Those without a config come last, when their name's row is there.
  for run, fields in sorted(
      zip(runs, configs, strict=True), key=lambda pair: not pair[1]):
    name = fields.get('name') or re.sub(r'-\d+$', '', run['directory'])
    settings = {k: v for k, v in fields.items() if k not in _NO_SETTINGS}
    namesakes = [row for row in rows if row['name'] == name]
    row = next(
        (row for row in namesakes if settings in ({}, row['settings'])), None)
    if row is None:
      # The same name for something else: told apart by its directory.
      row = {
          'name': f'{name} ({run["directory"]})' if namesakes else name,
          'published': fields.get('published', ''), 'settings': settings,
          'runs': []}
      rows.append(row)
    row['runs'].append(run)
  for row in rows:
    row['runs'].sort(key=lambda run: (run['seed'] or 0, run['directory']))
    row['figures'] = _summarize([run['figures'] for run in row['runs']])
  return rows


def _summarize(
    figures: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
  """Mean over the runs that have a figure; the sample standard deviation."""
  summary = {}
  for name in dict.fromkeys(name for run in figures for name in run):
    values = [run[name] for run in figures if name in run]
    spread = statistics.stdev(values) if len(values) > 1 else None
    summary[name] = {
        'mean': round(statistics.fmean(values), 3),
        'spread': None if spread is None else round(spread, 3),
        'count': len(values)}
  return summary


def _sort(
    rows: Sequence[dict[str, Any]], first: Sequence[str]
) -> list[dict[str, Any]]:
  place = {name: n for n, name in enumerate(first)}
  return sorted(
      rows, key=lambda row: (place.get(row['name'], len(place)), row['name']))

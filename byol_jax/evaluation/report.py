"""WORKDIR/report.html: how a run went, in one file that stands alone.

It is made from what is in the workdir (config.json, metrics.jsonl,
distributions.jsonl, evaluations/*.json, neighbors.npz, views.png), so it can
be made again, or of a run that is not finished. What is not there is left out.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import html
import itertools
import json
import statistics

from etils import epath
import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax import files
from byol_jax import places
from byol_jax.evaluation import advice
from byol_jax.evaluation import charts
from byol_jax.evaluation import collapse
from byol_jax.evaluation import gallery as gallery_lib
from byol_jax.evaluation import history
from byol_jax.evaluation import page
from byol_jax.evaluation import records as records_lib

Curves = Mapping[str, history.Curve]


def write_report(workdir: epath.PathLike) -> epath.Path:
  """Writes WORKDIR/report.html anew.

  Args:
    workdir: of a run, finished or not.

  Returns:
    The file's path.

  Raises:
    ConfigError: if there is no run in `workdir`.
  """
  places.check_run(workdir)
  workdir = epath.Path(workdir)
  config = config_lib.from_dict(
      json.loads((workdir / 'config.json').read_text()))
  curves = history.read_curves(workdir)
  records = records_lib.read_all(workdir)
  path = workdir / 'report.html'
  files.write_whole(path, page.render(
      f'BYOL {config.data} {config.encoder}', [
          _header(config, curves, records, workdir.resolve().name),
          _signs(config, curves, records),
          _probes(records),
          _curves(curves),
          _directions(curves, history.read_distributions(workdir)),
          _views(workdir / 'views.png'),
          _neighbors(gallery_lib.read(workdir)),
          _throughput(config, curves),
          _config(config)]))
  return path


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours} h {minutes:02} min' if hours else (
      f'{minutes} min {seconds:02} s')


def _last_step(curves: Curves) -> int:
  return max((steps[-1] for steps, _ in curves.values()), default=0)


def _header(
    config: ml_collections.ConfigDict, curves: Curves,
    records: Sequence[records_lib.Record], name: str,
) -> str:
  """What the run was, and its figures in large."""
  step = _last_step(curves)
  about = (
      f'Run {name}: {config.encoder} on {config.data}, {step} steps of '
      f'{config.batch_size} images at {config.image_size} pixels, target '
      f'{config.target}, {config.optimizer}.')
  figures = []
  for record in records:
    if not record['random_init'] and record['data'] == config.data:
      name = records_lib.name_metric(record['headline'])
      figure = records_lib.headline(record)
      what = record['description'].split(',')[0]
      figures.append((f'{100 * figure:.1f} %', f'{what} {name}, test split'))
  last = history.last_values(curves)
  if 'perf/images_per_second' in curves:
    rate = statistics.median(curves['perf/images_per_second'][1])
    figures += [
        (charts.format_number(rate), 'images per second'),
        (_clock(last['perf/seconds']), 'of pretraining')]
  if 'train/loss' in last:
    figures.append((f'{last["train/loss"]:.3f}', 'loss, of 8 at most'))
  return (
      f'<h1>BYOL pretraining report</h1>{page.paragraph(about, "sub")}'
      f'{page.tiles(figures)}')


def _signs(
    config: ml_collections.ConfigDict, curves: Curves,
    records: Sequence[records_lib.Record],
) -> str:
  """Whether anything looks bad, and what to try next if so."""
  if not curves:
    return ''
  sentences = advice.suggest(config, curves, records)
  if sentences:
    body = page.box('Something looks wrong', sentences, bad=True)
  else:
    last = history.last_values(curves)
    looked_at = [
        f'{name} {charts.format_number(last[name])}' for name in (
            *collapse.THRESHOLDS, 'pairs/projection_uniformity')
        if name in last]
    body = page.box(
        'No sign of collapse', [', '.join(looked_at)] if looked_at else [],
        bad=False)
  return page.section(
      'What to try next' if sentences else 'Health', body)


def _probes(records: Sequence[records_lib.Record]) -> str:
  """Pretrained against random initialisation, protocol by protocol."""
  if not records:
    return ''
  rows = [
      [(row.description, ''), (row.data, ''), (row.name, 'short'),
       *((cell, 'num') for cell in row.cells()[:2]),
       (row.cells()[2], f'num {_judge(row)}'.strip())]
      for row in records_lib.compare(records)]
  return page.section(
      'Probes', page.table(
          ('protocol', 'data', '', 'random init', 'pretrained', 'gain'), rows),
      page.paragraph(
          'Of the online encoder, in percent, on centre crops of the test '
          'split unless the protocol has another way.', 'note'))


def _judge(row: records_lib.Comparison) -> str:
  if row.gain is None:
    return ''
  is_good = row.gain > 0 if records_lib.is_share(row.name) else row.gain < 0
  return 'good' if is_good else 'bad'


def _pick(curves: Curves, **names: str) -> dict[str, history.Curve]:
  """Those of the metrics that there are, under their labels."""
  return {
      label.replace('_', ' '): curves[name]
      for label, name in names.items() if name in curves}


def _curves(curves: Curves) -> str:
  """Every curve that says how training went."""
  pick = functools.partial(_pick, curves)
  drawn = [
      charts.line_chart(
          'Loss', pick(loss='train/loss'), low=0.0,
          note='0: views predict each other; 4: they are unrelated.'),
      charts.line_chart(
          'Accuracy while training', pick(
              kNN_test='knn/test_top1',
              probe_test='online_probe/test_top1',
              probe_train='online_probe/train_top1'),
          scale=100, unit=' %', low=0.0,
          note='Of the online probe; its train figure is of views.'),
      charts.line_chart(
          'Cosine of prediction and target', pick(cosine='train/cosine'),
          high=1.0, note='Positive pairs.'),
      charts.line_chart(
          'tau', pick(tau='train/tau'),
          note='Weight of the old target: up to 1 at the end.'),
      charts.line_chart(
          'Learning rate', pick(learning_rate='train/learning_rate'), low=0.0),
      charts.line_chart(
          'Norm of the gradient', pick(gradient='train/grad_norm'), low=0.0),
      charts.line_chart(
          'Norm of the update', pick(update='train/update_norm'), low=0.0),
      charts.line_chart(
          'Norm of the parameters', pick(parameters='train/param_norm'),
          low=0.0),
      charts.line_chart(
          'Throughput', pick(images_per_second='perf/images_per_second'),
          low=0.0)]
  body = ''.join(drawn)
  return page.section(
      'Curves', f'<div class="charts">{body}</div>' if body else '',
      page.paragraph('Over optimizer steps.', 'note') if body else '')


def _directions(
    curves: Curves, distributions: Mapping[str, history.Frames]) -> str:
  """How many directions are used, and how evenly: what collapse takes."""
  pick = functools.partial(_pick, curves)
  drawn = [
      charts.line_chart(
          'Spread of directions', pick(
              embedding='train/embedding_std',
              projection='train/projection_std',
              prediction='train/prediction_std'), low=0.0, high=1.0,
          note='Standard deviation times sqrt(D): 1 healthy, 0 collapsed.'),
      charts.line_chart(
          'Effective rank', pick(
              embedding='diagnostics/embedding_rank',
              projection='diagnostics/projection_rank',
              prediction='diagnostics/prediction_rank'), low=0.0,
          note='How many directions the test images use.'),
      charts.line_chart(
          'Alignment', pick(
              embedding='pairs/embedding_alignment',
              projection='pairs/projection_alignment'), low=0.0,
          note='Mean square distance of two views of an image: low is good, '
          'if uniformity is low too.'),
      charts.line_chart(
          'Uniformity', pick(
              embedding='pairs/embedding_uniformity',
              projection='pairs/projection_uniformity'), high=0.0,
          note='Of different images: 0 collapsed, -4 all orthogonal.'),
      charts.line_chart(
          'Mean cosines', pick(
              two_views_of_an_image='pairs/positive_cosine',
              different_images='pairs/different_cosine',
              prediction_and_target='pairs/target_cosine'), low=0.0, high=1.0,
          note='Of projections, and of predictions with the target\'s '
          'projections of the other view.'),
      charts.line_chart(
          'Distance of the target from the online network', pick(
              distance='train/target_distance'), low=0.0,
          note='Of their parameters, relative to the online ones\'.'),
      *(_cosines(distributions, name) for name in (
          'projection', 'embedding')),
      *(_spectrum(distributions, name) for name in (
          'projection', 'embedding'))]
  body = ''.join(drawn)
  return page.section(
      'Directions', f'<div class="charts">{body}</div>' if body else '',
      page.paragraph(
          'Spread is of training batches, rank of test images; all else is of '
          'the views that training sees first, with running statistics.',
          'note') if body else '')


def _cosines(
    distributions: Mapping[str, history.Frames], output: str) -> str:
  """Both histograms of the last evaluation."""
  shown = {}
  for label, kind in (('two views of an image', 'positive'),
                      ('different images', 'different')):
    name = f'pairs/{output}_{kind}_cosines'
    if name in distributions:
      steps, frames = distributions[name]
      shown[f'{label}, step {steps[-1]}'] = charts.outline(frames[-1], -1, 1)
  return charts.line_chart(
      f'Cosines of the {output}', shown, low=0.0, scale=100, unit=' %',
      over_steps=False, note='Percent of the pairs, by their cosine.')


def _spectrum(
    distributions: Mapping[str, history.Frames], output: str) -> str:
  """Of the first evaluation and of the last, summed up."""
  steps, frames = distributions.get(f'pairs/{output}_spectrum', ((), ()))
  # A single evaluation is first and last.
  shown = {
      f'step {steps[n]}': _sum_up(frames[n]) for n in (0, -1) if steps}
  return charts.line_chart(
      f'Spectrum of the {output}', shown, low=0.0, high=100.0, scale=100,
      over_steps=False, note='Percent of the variance in the first '
      'directions, by how many: where it rises at once, few are used.')


def _sum_up(spectrum: Sequence[float]) -> history.Curve:
  """Shares of the variance in the first 0, 1, 2, ... directions."""
  sums = itertools.accumulate(spectrum, initial=0.0)
  # They were rounded one by one.
  return list(range(len(spectrum) + 1)), [min(x, 1.0) for x in sums]


def _views(path: epath.Path) -> str:
  if not path.exists():
    return ''
  return page.section(
      'Views', page.paragraph(
          'Originals and the two views that the networks see of each.',
          'note'),
      page.picture(path.read_bytes(), 'augmented views', 'wide'))


def _neighbors(found: gallery_lib.Gallery | None) -> str:
  """A row for each test image: it, then what is nearest to it."""
  if found is None:
    return ''
  count = found.cosine.shape[1]
  cells = ['<div class="head">image</div>', *(
      f'<div class="head">{n + 1}</div>' for n in range(count))]
  for q, query in enumerate(found.query):
    label = None if found.query_label is None else found.query_label[q]
    cells.append(_thumbnail(query, _name(found, label), 'query'))
    for n in range(count):
      kind, text = '', f'{found.cosine[q, n]:.2f}'
      if found.neighbor_label is not None and label is not None:
        near = found.neighbor_label[q, n]
        kind = 'same' if near == label else 'other'
        text += ' ' + _name(found, near)
      cells.append(_thumbnail(found.neighbor[q, n], text, kind))
  colors = '' if found.query_label is None else (
      ' Green: of the same class, red: of another.')
  return page.section(
      'Nearest neighbours', page.paragraph(
          'Images of the test split (left), and the nearest in the train '
          f'split by cosine of the embeddings.{colors}', 'note'),
      f'<div class="near" style="grid-template-columns:repeat({count + 1},'
      f'minmax(70px,1fr))">{"".join(cells)}</div>')


def _name(found: gallery_lib.Gallery, label: int | None) -> str:
  if label is None:
    return ''
  return found.class_names[label] if found.class_names else f'class {label}'


def _thumbnail(image: np.ndarray, text: str, kind: str) -> str:
  small = 'small' if max(image.shape[:2]) < 64 else ''
  return (
      f'<div class="{kind}">'
      f'{page.picture(page.encode_png(image), text, small)}'
      f'<div class="cap">{html.escape(text)}</div></div>')


def _throughput(config: ml_collections.ConfigDict, curves: Curves) -> str:
  if 'perf/images_per_second' not in curves:
    return ''
  rates = curves['perf/images_per_second'][1]
  seconds = curves['perf/seconds'][1][-1]
  step = _last_step(curves)
  rows = [
      ('images per second, median of log rows', statistics.median(rates)),
      ('images per second, slowest and fastest', (min(rates), max(rates))),
      ('steps', step), ('images', step * config.batch_size),
      ('seconds of pretraining, without evaluations', seconds)]

  def show(value: float | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
      return ' – '.join(f'{v:,.1f}' for v in value)
    return f'{value:,}' if isinstance(value, int) else f'{value:,.1f}'

  return page.section('Throughput', page.table(
      ('', ''), [[(name, ''), (show(value), 'num')] for name, value in rows]))


def _config(config: ml_collections.ConfigDict) -> str:
  """What differs from the defaults, then everything."""
  default = config_lib.flatten(config_lib.to_dict(
      config_lib.get_base_config()))
  fields = config_lib.flatten(config_lib.to_dict(config))

  def rows(names: Sequence[str]) -> list[list[tuple[str, str]]]:
    return [[(name, ''), (json.dumps(fields[name]), ''),
             (json.dumps(default.get(name)), '')] for name in names]

  header = ('field', 'value', 'default')
  changed = [n for n in sorted(fields) if fields[n] != default.get(n)]
  every = page.table(header, rows(sorted(fields)))
  return page.section(
      'Configuration', page.table(header, rows(changed)),
      f'<details><summary>All {len(fields)} fields</summary>{every}'
      '</details>')

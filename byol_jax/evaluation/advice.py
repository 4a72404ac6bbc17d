"""What to try next, from what a run has left behind."""

from collections.abc import Mapping
from collections.abc import Sequence
import math

import ml_collections

from byol_jax.evaluation import collapse
from byol_jax.evaluation import history
from byol_jax.evaluation import records as records_lib

# A figure that is this far below is no accident of the draw, on thousands of
# test images.
_MARGIN = 0.01


def suggest(
    config: ml_collections.ConfigDict, curves: Mapping[str, history.Curve],
    records: Sequence[records_lib.Record],
) -> list[str]:
  """Sentences that say what looks bad and what to try; none if nothing does.

  Args:
    config: of the run.
    curves: see `history.read_curves`.
    records: of its evaluations.
  """
  last = history.last_values(curves)
  bad = sorted(name for name, value in last.items() if not math.isfinite(value))
  advice = []
  if bad:
    advice.append(
        f'{", ".join(bad)} became NaN or infinite: lower '
        'config.base_learning_rate or lengthen config.warmup_epochs.')
  signs = collapse.find_signs(last)
  advice += signs.values()
  if signs:
    advice += collapse.causes_or_where_to_look(config)
  advice += _against_random(records)
  advice += _past_its_best(curves.get('knn/test_top1'))
  if not signs:
    advice += _has_not_learned(curves.get('train/loss'))
  return advice


def _against_random(records: Sequence[records_lib.Record]) -> list[str]:
  """An encoder that learned something beats itself at random."""
  random_init = {
      records_lib.comparable(record): records_lib.headline(record)
      for record in records if record['random_init']}
  advice = []
  for record in records:
    baseline = random_init.get(records_lib.comparable(record))
    if record['random_init'] or baseline is None:
      continue
    figure = records_lib.headline(record)
    if figure < baseline + _MARGIN:
      advice.append(
          f'Pretraining did not help in {record["description"]}: '
          f'{100 * figure:.1f} % against {100 * baseline:.1f} % at '
          'random initialisation. Train for more epochs; look at the views: '
          'two views of one image should share what matters and little else.')
  return advice


def _past_its_best(curve: history.Curve | None) -> list[str]:
  if curve is None or curve[1][-1] > max(curve[1]) - 2 * _MARGIN:
    return []
  best = max(range(len(curve[1])), key=curve[1].__getitem__)
  return [
      f'kNN was best at step {curve[0][best]} ({100 * curve[1][best]:.1f} %) '
      f'and fell to {100 * curve[1][-1]:.1f} %: the learning rate may be too '
      'high, or config.base_tau too low.']


def _has_not_learned(curve: history.Curve | None) -> list[str]:
  if curve is None or len(curve[1]) < 5:
    return []
  first, last = curve[1][0], curve[1][-1]
  if last < 0.95 * first:
    return []
  return [
      f'The loss hardly moved ({first:.2f} to {last:.2f}): raise '
      'config.base_learning_rate, shorten config.warmup_epochs or train for '
      'longer.']

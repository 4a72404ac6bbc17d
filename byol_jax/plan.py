"""Says, before a TPU slice is paid for, what a run would take on it.

    python -m byol_jax.plan --config=configs/NAME.py \
        --topology=v4:2x2x2[,v5e:8x8,...] [--batch_size=N] [--search] \
        [--json=FILE] [--config.FIELD=VALUE ...]

Compiles the run's own step for each slice, with libtpu and no TPU (`pip install
-e '.[plan]'`): whether it fits the memory, its FLOPs, its collectives, the
least time that it can take, and what that asks of the hosts that feed it.
Without libtpu it says what can be known without compiling. No data is opened.

A topology is a chip (v2, v3, v4, v5e, v5p or v6e) and how many there are along
each dimension. A ResNet-50 takes minutes on two CPU cores, how many depends on
the slice; what was compiled once is remembered.
"""

from collections.abc import Sequence
import dataclasses
import importlib.metadata
import json
import pathlib
from typing import Any

from absl import flags
from ml_collections import config_flags

from byol_jax import config as config_lib
from byol_jax import jobs
from byol_jax.planning import datasets
from byol_jax.planning import libtpu
from byol_jax.planning import planner as planner_lib
from byol_jax.planning import slices as slices_lib
from byol_jax.planning import table

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The run to plan.')
_TOPOLOGY = flags.DEFINE_list(
    'topology', None, 'The slices to plan it for, such as v4:2x2x2,v5e:8x8.')
_BATCH_SIZE = flags.DEFINE_integer(
    'batch_size', None, 'Short for --config.batch_size.', lower_bound=1)
_SEARCH = flags.DEFINE_boolean(
    'search', False,
    'Look for the largest batch of a device that fits, by at most six '
    'compiles for a topology.')
_UTILISATION = flags.DEFINE_float(
    'utilisation', 0.2,
    'Share of the floor\'s speed to reckon with. The original\'s ResNet-50 '
    'reached a fifth of it: see docs/plan.md.', lower_bound=0.001,
    upper_bound=1.0)
_NUM_EXAMPLES = flags.DEFINE_integer(
    'num_examples', None, 'Training images, where that is not known.',
    lower_bound=1)
_NUM_CLASSES = flags.DEFINE_integer(
    'num_classes', None, 'Classes, where that is not known; 0: no labels.',
    lower_bound=0)
_JSON = flags.DEFINE_string('json', None, 'Where to write the figures.')

_MAX_COMPILES = 6


def _say_what_was_done(
    planner: planner_lib.Planner, slices: Sequence[slices_lib.Slice]) -> None:
  """What the figures rest on."""
  if planner.libtpu is None:
    print(
        "libtpu is not installed (pip install -e '.[plan]' brings it), so "
        "nothing was compiled:\nmemory and XLA's counts are not known, and "
        'the floor is too low: it is that of\narithmetic and of averaging '
        'the gradients alone.')
    return
  for where in slices:
    if where in planner.deaths:
      print(
          f'{where.name}: {planner.deaths[where]}: what needs no compile is '
          'shown, and its floor is too low')
      continue
    program, was_remembered = planner.compile(where)
    outcome = 'refused' if program.refusal else 'compiled'
    print(
        f'{where.name}: {outcome} by libtpu {planner.libtpu} in '
        f'{program.seconds:.0f} s'
        + (', remembered since' if was_remembered else ''))


def _search(
    planner: planner_lib.Planner, slices: Sequence[slices_lib.Slice],
) -> dict[str, Any]:
  """Searches for each slice; prints and returns what was found."""
  results = {}
  for where in slices:
    found = planner.search(where, _MAX_COMPILES)
    results[where.name] = dataclasses.asdict(found)
    print(f'{where.name}: {found.say(where.num_devices)}')
  return results


def main(_: Sequence[str]) -> None:
  if _JSON.value:
    jobs.check_writable('--json', pathlib.Path(_JSON.value))
  if _SEARCH.value and libtpu.version() is None:
    raise config_lib.ConfigError(
        '--search compiles, and libtpu is not installed: pip install -e '
        "'.[plan]'")
  libtpu.prepare()
  config = _CONFIG.value
  if _BATCH_SIZE.value is not None:
    config.batch_size = _BATCH_SIZE.value
  slices = slices_lib.parse_slices(_TOPOLOGY.value)
  facts = datasets.find_facts(
      config, num_examples=_NUM_EXAMPLES.value,
      num_classes=_NUM_CLASSES.value)
  planner = planner_lib.Planner(config, facts, slices)
  all_figures = [
      planner.describe(where, _UTILISATION.value) for where in slices]
  _say_what_was_done(planner, slices)
  print(f'{table.draw(all_figures)}\n\n{table.NOTES}')
  result = {'config': config_lib.to_dict(config), 'libtpu': planner.libtpu,
            'jax': importlib.metadata.version('jax'), 'slices': all_figures}
  if _SEARCH.value:
    result['search'] = _search(planner, slices)
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  flags.mark_flag_as_required('topology')
  jobs.run(main)

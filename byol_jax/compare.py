"""Puts the runs in a directory side by side: a table, a figure, their JSON.

    python -m byol_jax.compare --runs=DIR --output=docs/ablations
    python -m byol_jax.compare --output=docs/ablations

Runs (workdirs of byol_jax.pretrain in DIR, finished or not) are grouped by
config.name, or by the directory's name where that is empty, over seeds. Writes
OUTPUT.json, and from it alone OUTPUT.md and OUTPUT.png. Without --runs, page
and figure are written anew from OUTPUT.json. OUTPUT_findings.md, if there is
such a file, is yours: it is shown at the top of the page.
"""

from collections.abc import Sequence

from absl import flags
from etils import epath

from byol_jax import jobs

_RUNS = flags.DEFINE_string(
    'runs', None, 'A directory of workdirs; none: read OUTPUT.json.')
_OUTPUT = flags.DEFINE_string(
    'output', None, 'Path of what is written, without an ending.')
_FIRST = flags.DEFINE_list(
    'first', [], 'Names of the first rows; the others are compared with the '
    'first of them.')
_COMMAND = flags.DEFINE_string(
    'command', '', 'What made the runs, for the page.')


def main(_: Sequence[str]) -> None:
  """Reads, and writes what it made of it."""
  from byol_jax.evaluation import comparison
  from byol_jax.evaluation import comparison_page
  output = epath.Path(_OUTPUT.value)
  if _RUNS.value is not None:
    found = comparison.compare(
        _RUNS.value, first=_FIRST.value, command=_COMMAND.value)
    output.parent.mkdir(parents=True, exist_ok=True)
    comparison.write(found, f'{output}.json')
  for path in comparison_page.write(output):
    print(f'wrote {path}')


if __name__ == '__main__':
  flags.mark_flag_as_required('output')
  jobs.run(main)

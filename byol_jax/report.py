"""Writes a run's report.html anew from what is in its workdir.

    python -m byol_jax.report --workdir=DIR [--table=FILE.md]

--table writes its evaluations as a Markdown table, beside those of the same
network at random initialisation.
"""

from collections.abc import Sequence
import pathlib

from absl import flags

from byol_jax import jobs

_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Of a byol_jax.pretrain run, finished or not.')
_TABLE = flags.DEFINE_string(
    'table', None, 'Where to write the evaluations as a table, too.')


def main(_: Sequence[str]) -> None:
  """Reads what is there, and writes."""
  from byol_jax.evaluation import records
  from byol_jax.evaluation import report
  print(f'wrote {report.write_report(_WORKDIR.value)}')
  if _TABLE.value:
    pathlib.Path(_TABLE.value).write_text(
        records.markdown(records.read_all(_WORKDIR.value)))
    print(f'wrote {_TABLE.value}')


if __name__ == '__main__':
  flags.mark_flag_as_required('workdir')
  jobs.run(main)

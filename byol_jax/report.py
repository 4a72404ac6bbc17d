"""Writes a run's report.html anew from what is in its workdir.

    python -m byol_jax.report --workdir=DIR
"""

from collections.abc import Sequence

from absl import flags

from byol_jax import jobs
from byol_jax import places

_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Of a byol_jax.pretrain run, finished or not.')


def main(_: Sequence[str]) -> None:
  """Reads what is there, and writes."""
  places.check_run(_WORKDIR.value)
  from byol_jax.evaluation import report
  print(f'wrote {report.write_report(_WORKDIR.value)}')


if __name__ == '__main__':
  flags.mark_flag_as_required('workdir')
  jobs.run(main)

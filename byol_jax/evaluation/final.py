"""The end of a run: its encoder against the same one at random."""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import functools
import json
import statistics
import time
from typing import Any

from absl import logging
from etils import epath
import jax
import ml_collections

from byol_jax import config as config_lib
from byol_jax import files
from byol_jax.evaluation import collapse
from byol_jax.evaluation import features as features_lib
from byol_jax.evaluation import history
from byol_jax.evaluation import neighbors
from byol_jax.evaluation import progress as progress_lib
from byol_jax.evaluation import protocols
from byol_jax.evaluation import records
from byol_jax.evaluation import report
from byol_jax.evaluation import subject as subject_lib
from byol_jax.networks import network as network_lib
from byol_jax.training import agreement
from byol_jax.training import devices
from byol_jax.training import state as state_lib


class FinalEvaluator:
  """Runs protocols on one encoder after the other; compiles once for all."""

  def __init__(
      self, config: ml_collections.ConfigDict, network: network_lib.Network,
      sources: subject_lib.Sources, names: Sequence[str],
      progress_directory: str | None = None):
    """Raises ConfigError for what the data cannot give.

    Args:
      config: of the evaluation.
      network: an unbound module.
      sources: to learn from and to measure on.
      names: of protocols.
      progress_directory: where unfinished work is kept; None: nowhere.
    """
    protocols.check(names, config, sources)
    self._config = config
    self._names = tuple(names)
    agreement.check_same('the config', [
        list(names), config_lib.to_dict(config)])
    agreement.check_same('the number of examples', [
        source and source.num_examples
        for source in (sources.train, sources.valid, sources.test)])
    self._extractor = subject_lib.Extractor(config, network, sources)
    self._make_subject = functools.partial(
        subject_lib.Subject, config, network, sources=sources,
        extractor=self._extractor)
    self._sources = sources
    self._progress_directory = progress_directory

  def run(
      self, variables: Any, *, step: int, checkpoint: str = '',
      random_init: bool = False,
      on_record: Callable[[records.Record], None] = lambda _: None,
  ) -> tuple[list[records.Record], subject_lib.Subject]:
    """Evaluates one encoder.

    Args:
      variables: `params` and `batch_stats`.
      step: that they stand at.
      checkpoint: the workdir they come from, for the record.
      random_init: whether they never learned anything.
      on_record: called with each record as soon as there is one.

    Returns:
      One record for each protocol, and what they were given.
    """
    directory = self._find_unfinished(variables)
    subject = self._make_subject(
        variables=variables, progress_directory=directory)
    made = []
    with progress_lib.lock(directory):
      results = subject.open_progress('results')
      for name in self._names:
        metrics = results.keep(
            name, functools.partial(protocols.get(name).run, subject))
        made.append(records.create_record(
            name, subject, metrics, checkpoint=checkpoint, step=step,
            random_init=random_init))
        on_record(made[-1])
    if directory:
      _remove(epath.Path(directory))
    return made, subject

  def _find_unfinished(self, variables: Any) -> str | None:
    """Where this evaluation's work is kept; no other's is there.

    Jobs that run side by side on one workdir keep theirs apart, as long as
    they are of other protocols.
    """
    if self._progress_directory is None:
      return None
    sources = self._sources
    identity = subject_lib.identify(
        self._config, variables, sources.train, sources.valid, sources.test)
    place = epath.Path(
        self._progress_directory, f'{"+".join(self._names)}-{identity}')
    folder = place.parent
    others = [path.name for path in (
        folder.iterdir() if folder.is_dir() else ()) if path != place]
    if others:
      logging.info(
          '%s also holds what other evaluations have not finished, or are '
          'at: %s; remove what is not wanted.', folder,
          ', '.join(sorted(others)))
    return str(place)


def _remove(directory: epath.Path) -> None:
  """Unfinished work that is finished, once no process needs it."""
  devices.sync('evaluated')
  if not jax.process_index():
    with contextlib.suppress(OSError):
      directory.rmtree()
    # Another evaluation's work may be there.
    with contextlib.suppress(OSError, ValueError):
      directory.parent.rmdir()


def evaluate_and_report(
    config: ml_collections.ConfigDict, network: network_lib.Network,
    state: state_lib.TrainState, initial_state: state_lib.TrainState,
    sources: subject_lib.Sources, names: Sequence[str], workdir: str,
    begin: float,
) -> None:
  """Writes a run's evaluations, its result.json and its report.html.

  Args:
    config: of the run.
    network: of the run.
    state: the last one.
    initial_state: the same network before its first step.
    sources: of the run.
    names: of protocols; where there are none, nothing is evaluated.
    workdir: of the run.
    begin: when the run began, on the monotonic clock, had it not stopped.
  """
  variables = features_lib.online_variables(state)
  made = []
  if names:
    if not jax.process_index():
      print('final evaluation: the encoder, then the same one at random')
    evaluator = FinalEvaluator(config, network, sources, names)
    made, subject = evaluator.run(
        variables, step=int(state.step), checkpoint=str(workdir))
    splits = subject.splits
    made += evaluator.run(
        features_lib.online_variables(initial_state), step=0,
        random_init=True)[0]
  else:
    splits = _sample_splits(config, network, variables, sources)
  if jax.process_index():
    return
  for record in made:
    records.write(workdir, record)
  neighbors.find(
      sources.train, sources.test, splits, picture_size=config.image_size,
  ).write(workdir)
  result = create_result(made, workdir, time.monotonic() - begin)
  result = json.dumps(result, indent=2)
  files.write_whole(epath.Path(workdir) / 'result.json', result + '\n')
  page = report.write_report(workdir)
  if made:
    print(records.table(made))
  print(collapse.verdict(
      history.last_values(history.read_curves(workdir)), config,
      jax.device_count()))
  print(f'report: {page}')


def choose_protocols(
    config: ml_collections.ConfigDict, sources: subject_lib.Sources
) -> Sequence[str]:
  """`config.final_protocols`; of images without labels, those that remain.

  Raises:
    ConfigError: for one that labelled data cannot give.
  """
  names = config.final_protocols
  if sources.test is None or None in (
      sources.train.num_classes, sources.test.num_classes):
    return protocols.choose(names, config, sources)
  protocols.check(names, config, sources)
  return names


def _sample_splits(
    config: ml_collections.ConfigDict, network: network_lib.Network,
    variables: Any, sources: subject_lib.Sources,
) -> features_lib.Splits:
  """Features for the report's pictures alone, where there are no labels."""
  predict = features_lib.make_predict(network)
  return features_lib.Splits(*(
      features_lib.extract_features(
          predict, variables, features_lib.make_batches(
              source, config, config.knn.max_train_examples)())
      for source in (sources.train, sources.test or sources.train)))


def create_result(
    made: Sequence[records.Record], workdir: epath.PathLike,
    seconds: float,
) -> dict[str, Any]:
  """The figures that other programs read.

  Args:
    made: of the encoder, and of the same one at random.
    workdir: of the run.
    seconds: what all of it took.

  Returns:
    `linear_top1`, `knn_top1` or what other protocols have as their headline,
    and the same after `random_init_`, in percent, where they were measured;
    `collapsed` and its `signs`, sentences; the last `embedding_rank` and
    `projection_rank`; `images_per_second`, the median over the run's log rows;
    `seconds`.
  """
  result = {}
  for record in made:
    prefix = 'random_init_' if record['random_init'] else ''
    name = record['headline'].replace('/test_', '_').replace('/', '_')
    result[prefix + name] = round(100 * records.headline(record), 2)
  curves = history.read_curves(workdir)
  last = history.last_values(curves)
  result |= collapse.judge(last)
  for name in ('embedding_rank', 'projection_rank'):
    if f'diagnostics/{name}' in last:
      result[name] = round(last[f'diagnostics/{name}'], 2)
  if 'perf/images_per_second' in curves:
    result['images_per_second'] = round(statistics.median(
        curves['perf/images_per_second'][1]), 1)
  return result | {'seconds': round(seconds, 1)}

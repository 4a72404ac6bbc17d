"""Evaluates a pretrained encoder by the protocols of the paper.

    python -m byol_jax.evaluate --checkpoint=WORKDIR --protocol=knn,linear \
        [--data=tfds:NAME] [--config.FIELD=VALUE ...]
    python -m byol_jax.evaluate --checkpoint=random --config=configs/NAME.py \
        --protocol=knn --output=DIR

| protocol | encoder | what is measured |
|---|---|---|
| knn | frozen | weighted vote of the nearest neighbours |
| linear | frozen | a linear layer, trained on random crops and flips |
| logistic | frozen | logistic regression on features of whole images |
| semi_supervised | fine-tuned | with 1 % and 10 % of the labels |
| finetune | fine-tuned | with all labels |
| segmentation | fine-tuned, frozen or both | classes of pixels |
| depth | the same | distances of pixels |
| all | | those that the data allows |

The config is the checkpoint's; `--config.FIELD=VALUE` overrides what an
evaluation depends on, such as `--config.knn.k=20`. `--data=food101` and the
like stand for the paper's transfer datasets with their splits and metrics, see
`evaluation/transfer_presets.py`. The second form evaluates the encoder of a
config at random initialisation, for comparison. Figures are printed, and
written with their settings to WORKDIR/evaluations/PROTOCOL-DATASET.json, and
side by side to WORKDIR/evaluations/table.md. What was cut short goes on where
it was.
"""

from collections.abc import Sequence
import copy
import functools
import os
import sys
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from byol_jax import compilation_cache
from byol_jax import config as config_lib
from byol_jax import config_changes
from byol_jax import config_rules
from byol_jax import jobs
from byol_jax import places
from byol_jax import processes
from byol_jax import stopping
from byol_jax.evaluation import transfer_presets

_CHECKPOINT = flags.DEFINE_string(
    'checkpoint', None,
    'Workdir of a run, or "random" with --config for a random initialisation.')
_PROTOCOL = flags.DEFINE_list(
    'protocol', ['knn'], 'Protocols, with commas; see above.')
_DATA = flags.DEFINE_string(
    'data', None, 'Another dataset: one of the paper\'s by its name, or as '
    'config.data; mind its --config.train_split and --config.test_split.')
_CONFIG = flags.DEFINE_string(
    'config', None, 'A file of configs/, for --checkpoint=random. '
    '--config.FIELD=VALUE overrides a field in either case.')
_OUTPUT = flags.DEFINE_string(
    'output', None, 'Where evaluations/ goes; the default is --checkpoint.')

_RANDOM = 'random'

# What an evaluation depends on; the rest is the checkpoint's own.
_FIELDS = (
    'data', 'data_dir', 'train_split', 'valid_split', 'test_split', 'metric',
    'test_image_size', 'test_crop_ratio', 'max_bad_image_share', 'cache_bytes',
    'seed', 'evaluate_batch_size', 'augment.view1.crop_area_range',
    *(f'{protocol}.' for protocol in config_rules.PROTOCOLS))


def take_overrides(argv: list[str]) -> list[str]:
  """Removes `--config.FIELD=VALUE` from `argv` and returns them.

  Which config they override is known only once the other flags are.
  """
  overrides = [arg for arg in argv[1:] if arg.startswith('--config.')]
  argv[:] = [arg for arg in argv if arg not in overrides]
  return overrides


def override(
    config: ml_collections.ConfigDict | str, overrides: Sequence[str]
) -> ml_collections.ConfigDict:
  """Applies `--config.FIELD=VALUE` arguments, typed as in any other job.

  Args:
    config: a configuration, or a file of `configs/`.
    overrides: arguments.

  Raises:
    ConfigError: for an unknown field, a value of the wrong type, or a file
      that is none.
  """
  values = flags.FlagValues()
  argv = ['evaluate', *overrides]
  known = config_lib.get_base_config()
  for argument in overrides:
    name, equals, _ = argument.removeprefix('--config.').partition('=')
    if not equals:
      raise config_lib.ConfigError(
          f'{argument}: expected --config.FIELD=VALUE, with an equals sign')
    # With a hint, where there is no such field; else it changes nothing.
    config_lib.set_field(
        known, name, config_lib.flatten(known.to_dict()).get(name))
  # A file that cannot be loaded would be reported only when it is used.
  if isinstance(config, str) and not os.path.isfile(config.partition(':')[0]):
    raise config_lib.ConfigError(f'--config={config}: there is no such file')
  try:
    if isinstance(config, str):
      argv.insert(1, f'--config={config}')
      config_flags.DEFINE_config_file(
          'config', flag_values=values, sys_argv=argv)
    else:
      config_flags.DEFINE_config_dict(
          'config', config, flag_values=values, sys_argv=argv)
    values(argv)
  except (flags.Error, *jobs.CONFIG_ERRORS) as error:
    raise config_lib.ConfigError(
        jobs.without_traceback(f'--config: {error}')) from None
  return values.config


def check_overridden(
    original: ml_collections.ConfigDict, config: ml_collections.ConfigDict
) -> None:
  """Raises ConfigError if a field changed that the checkpoint has fixed."""
  for line in config_changes.differences(original, config):
    name = line.split(':')[0]
    if not any(name == field or (field.endswith('.') and name.startswith(field))
               for field in _FIELDS):
      raise config_lib.ConfigError(
          f'config.{name} belongs to the checkpoint ({line.split(": ")[1]}); '
          f'an evaluation may override {", ".join(_FIELDS)}')


def _restore(overrides: Sequence[str]) -> tuple[
    ml_collections.ConfigDict, Any, Any]:
  """The config as overridden, the network, and the state."""
  from byol_jax.training import saved_run
  original, network, state = saved_run.restore(_CHECKPOINT.value)
  config = override(copy.deepcopy(original), overrides)
  check_overridden(original, config)
  config_rules.validate(
      config, custom_encoder=config.encoder not in config_rules.ENCODERS)
  return config, network, state


def _initialise(overrides: Sequence[str]) -> tuple[
    ml_collections.ConfigDict, Any, Any]:
  """The same of a config that no run has trained."""
  import jax

  from byol_jax.data import sources
  from byol_jax.networks import network as network_lib
  from byol_jax.training import optimizers
  from byol_jax.training import start
  config = override(_CONFIG.value, overrides)
  starts_from_data = config_rules.starts_from_data(config)
  config_rules.validate(
      config, num_devices=jax.device_count() if starts_from_data else 1)
  network = network_lib.create_network(config, None)
  tx = optimizers.create_optimizer(config, lambda _: 0.0)
  source = None
  if starts_from_data:
    source = sources.create_source(config, config.train_split)
  return config, network, start.make_create_first_state(
      network, tx, config, source)()


def _check_subject(is_random: bool) -> None:
  """Raises ConfigError for a checkpoint, or a config, that is not there."""
  if not is_random:
    places.check_checkpoints(_CHECKPOINT.value)
    if _CONFIG.value:
      raise config_lib.ConfigError(
          '--config goes with --checkpoint=random; a workdir has its own '
          'config.json, override its fields by --config.FIELD=VALUE')
  elif not _CONFIG.value:
    raise config_lib.ConfigError(
        '--checkpoint=random needs --config=configs/NAME.py')


def _check_data(overrides: Sequence[str]) -> None:
  """Raises ConfigError where the data that they name last is not there."""
  named = [argument.partition('=')[2] for argument in overrides
           if argument.startswith('--config.data=')]
  if named:
    places.check_data(named[-1])


def _check_protocols(names: Sequence[str]) -> None:
  """Raises ConfigError for a name that is none."""
  wrong = [n for n in names if n not in (*config_rules.PROTOCOLS, 'all')]
  if not names or wrong or 'all' in names and len(names) > 1:
    raise config_lib.ConfigError(
        f'--protocol={",".join(names)}: expected all, or some of '
        f'{", ".join(config_rules.PROTOCOLS)} with commas')


def _choose_protocols(
    names: Sequence[str], config: ml_collections.ConfigDict, sources: Any
) -> list[str]:
  """The protocols asked for; of `all`, those that the data allows."""
  from byol_jax.evaluation import protocols
  if list(names) != ['all']:
    return list(names)
  chosen = protocols.choose(config_rules.PROTOCOLS, config, sources)
  if not chosen:
    raise config_lib.ConfigError(f'{config.data} allows no protocol')
  return chosen


def main(_: Sequence[str], overrides: Sequence[str] = ()) -> None:
  """Evaluates; leaves at the first signal, wherever it is."""
  kept = 'stopped; the same command '
  kept += ('goes on where this one was' if _find_output() else
           'starts anew, for nothing is kept without --output')
  with stopping.requests(at_once=True, kept=kept):
    _evaluate(overrides)


def _find_output() -> str | None:
  """Where evaluations/ goes; None: nowhere."""
  if _OUTPUT.value or _CHECKPOINT.value == _RANDOM:
    return _OUTPUT.value
  return _CHECKPOINT.value


def _check_processes(overrides: Sequence[str]) -> None:
  """Raises ConfigError unless all processes have the same to do."""
  from etils import epath
  import jax

  from byol_jax.training import agreement
  given = {flag.name: flag.value for flag in (
      _CHECKPOINT, _PROTOCOL, _DATA, _CONFIG, _OUTPUT)}
  agreement.check_same('the command', given | {'overrides': list(overrides)})
  if output := _find_output():
    if _OUTPUT.value and not jax.process_index():
      epath.Path(output).mkdir(parents=True, exist_ok=True)
    agreement.check_shared(
        output, '--output' if _OUTPUT.value else '--checkpoint')


def _evaluate(overrides: Sequence[str]) -> None:
  """Restores, evaluates, prints, writes."""
  # What it can know alone, before the seconds that imports take.
  _check_protocols(_PROTOCOL.value)
  if _DATA.value:
    preset = transfer_presets.expand(_DATA.value)
    overrides = [
        *(f'--config.{name}={value}' for name, value in preset.items()),
        *overrides]
  _check_data(overrides)
  is_random = _CHECKPOINT.value == _RANDOM
  _check_subject(is_random)

  import jax
  compilation_cache.use()
  _check_processes(overrides)
  output = _find_output()
  if not output and not jax.process_index():
    print('note: without --output nothing is written, and what is cut short '
          'starts anew')
  config, network, state = (_initialise if is_random else _restore)(overrides)

  from byol_jax.evaluation import features
  from byol_jax.evaluation import final
  from byol_jax.evaluation import records
  from byol_jax.evaluation import subject
  sources = subject.open_sources(config)
  names = _choose_protocols(_PROTOCOL.value, config, sources)
  evaluator = final.FinalEvaluator(
      config, network, sources, names,
      progress_directory=output and f'{output}/evaluations/unfinished')
  def write(record: records.Record) -> None:
    if output and not jax.process_index():
      print(f'wrote {records.write(output, record)}')

  made, _ = evaluator.run(
      features.online_variables(state), step=int(state.step),
      checkpoint='' if is_random else _CHECKPOINT.value,
      random_init=is_random, on_record=write)
  if jax.process_index():
    return
  print(f'{config.data}, {config.encoder}; learns from '
        f'{config.train_split!r} ({made[0]["num_train_examples"]}), measured '
        f'on {config.test_split!r} ({made[0]["num_test_examples"]})')
  print(records.table(made))


if __name__ == '__main__':
  flags.mark_flag_as_required('checkpoint')
  jobs.run(
      functools.partial(main, overrides=take_overrides(sys.argv)),
      processes.join)

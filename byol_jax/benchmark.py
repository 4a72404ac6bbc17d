"""Measures the input, the step, the whole loop, or parts of evaluations.

    python -m byol_jax.benchmark --json=FILE \
        --what=input|step|update|loop|save|features|linear|logistic \
        [--config=configs/quickstart.py] [--config.FIELD=VALUE ...]

`input` is the host's pipeline alone, on the config's data. `step` is the
compiled step alone, on one batch that stays on the devices, with its ledger:
FLOPs (needed, and by XLA's count), bytes, memory, collectives, of one device;
that of a TPU slice is a part of what `byol_jax.plan` prints. `loop` is the loop
around the step as users run it, fed with ready-made batches from the host,
beside `step` in the same process, in turn. These three give images per second.
`update` is the optimizer and the target's average alone, in turn with `step`,
and its share of it. `save` is the seconds that an asynchronous save costs the
steps beside it, in turn with none, and the share of the run that is at
`config.checkpoint_every_steps`.

`features` is the extraction of features beside the encoder's bare forward pass,
`linear` the sweep of linear heads on augmented images beside one head; both on
ready-made batches, in turn.

`logistic` is the seconds of the path of 45 strengths, each fit warm-started by
those before, and of 45 cold fits, in turn, to the same tolerance. Features are
256 of a random projection and ReLU of 5000 training images' pixels.
"""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from byol_jax import compilation_cache
from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax import jobs

_WHAT = flags.DEFINE_enum(
    'what', 'step', [
        'input', 'step', 'update', 'loop', 'save', 'features', 'linear',
        'logistic'],
    'What to measure.')
_JSON = flags.DEFINE_string('json', None, 'Where to write the figures.')
_CONFIG = config_flags.DEFINE_config_file(
    'config', 'configs/quickstart.py', 'What to run.')
_WINDOWS = flags.DEFINE_integer(
    'windows', 5, 'Windows; the median counts.', lower_bound=1)
_STEPS = flags.DEFINE_integer(
    'steps', 20, 'Steps in a window.', lower_bound=1)


def _measure_loop(
    config: ml_collections.ConfigDict, what: str) -> dict[str, Any]:
  """Figures of a part of training, with what they hold for."""
  from byol_jax.training import setup as setup_lib
  from byol_jax.training import throughput
  setup = setup_lib.set_up(config)
  return {
      'encoder': setup.config.encoder,
      'image_size': setup.config.image_size,
      'batch_size': setup.config.batch_size, 'steps': _STEPS.value,
      **throughput.MEASURES[what](setup, _WINDOWS.value, _STEPS.value)}


def _measure_frozen(
    config: ml_collections.ConfigDict, what: str) -> dict[str, Any]:
  """Figures of `features` or `linear`, with what they hold for."""
  from byol_jax.evaluation import speed
  config_rules.validate(config)
  measure = {
      'features': speed.measure_features, 'linear': speed.measure_linear}[what]
  return {
      'encoder': config.encoder,
      'image_size': config_lib.test_image_size(config),
      'steps': _STEPS.value, **measure(config, _WINDOWS.value, _STEPS.value)}


def _measure_logistic(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Seconds of the path and of cold fits, on features of `config.data`."""
  from byol_jax.data import pipeline
  from byol_jax.data import sources
  from byol_jax.evaluation import logistic_speed
  config_rules.validate(config)
  source = sources.create_source(config, config.train_split)
  if source.num_classes is None:
    raise config_lib.ConfigError(
        f'{source.name} has no labels, expected some: logistic regression '
        'learns from them')
  batches = pipeline.create_eval_dataset(
      source, config, batch_size=500, limit=5000).as_numpy_iterator()
  return logistic_speed.measure(
      batches, num_classes=source.num_classes, windows=_WINDOWS.value)


def _measure(
    config: ml_collections.ConfigDict, what: str) -> dict[str, Any]:
  if what == 'logistic':
    return _measure_logistic(config)
  if what in ('features', 'linear'):
    return _measure_frozen(config, what)
  return _measure_loop(config, what)


def main(_: Sequence[str]) -> None:
  if _JSON.value:
    jobs.check_writable('--json', pathlib.Path(_JSON.value))
  # Imported here and above, so that --help answers at once.
  from byol_jax.training import throughput
  compilation_cache.use()
  what, config = _WHAT.value, _CONFIG.value
  result = {
      'what': what,
      **_measure(config, what),
      **throughput.describe_machine()}
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=2) + '\n')
  for name, value in result.items():
    print(f'{name}: {value}')


if __name__ == '__main__':
  jobs.run(main)

"""What is known of a step, counted and compiled, and kept on disk.

A compile takes minutes, and what it says is a few numbers: they are kept in
the user's cache folder, by everything that they depend on.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
from typing import Any

import byol_jax
from byol_jax import config as config_lib
from byol_jax import config_changes
from byol_jax.planning import collectives as collectives_lib
from byol_jax.planning import memory as memory_lib


@dataclasses.dataclass(frozen=True)
class Counts:
  """What holds for any machine.

  Attributes:
    flops_per_image: that a step must compute, see `training.cost`.
    state_bytes: parameters, statistics and optimizer.
    gradient_bytes: of the trained parameters, averaged over the devices.
  """

  flops_per_image: float
  state_bytes: int
  gradient_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """One device's part of a step, compiled; or XLA's refusal to.

  Attributes:
    seconds: that compiling took.
    refusal: for want of memory; then there is nothing else.
    memory: of the device.
    flops: XLA's count: recomputation and elementwise work count too.
    bytes_accessed: XLA's count of what operations read and write, be it in
      main memory or on the chip.
    optimal_seconds: XLA's own estimate of the least time; 0 where it has none
      (for some chips it is negative).
    main_memory_bytes: in main memory alone, see `traffic`.
    collectives: by kind and group.
  """

  seconds: float
  refusal: memory_lib.Refusal | None = None
  memory: memory_lib.Memory | None = None
  flops: float = 0.0
  bytes_accessed: float = 0.0
  optimal_seconds: float = 0.0
  main_memory_bytes: int = 0
  collectives: tuple[collectives_lib.Collective, ...] = ()

  @property
  def fits(self) -> bool:
    return self.memory is not None and self.memory.fits


def to_program(fields: dict[str, Any]) -> Program:
  """The inverse of `dataclasses.asdict`."""
  return Program(**fields | {
      'refusal': fields['refusal'] and memory_lib.Refusal(**fields['refusal']),
      'memory': fields['memory'] and memory_lib.Memory(**fields['memory']),
      'collectives': tuple(
          collectives_lib.Collective(
              **c | {'group': c['group'] and tuple(c['group'])})
          for c in fields['collectives'])})


# Of the fields that a run may not change, those that decide what comes into
# the step and how often, but not the step.
_FIELDS_AROUND_IT = (
    'data', 'train_split', 'max_image_pixels', 'num_epochs', 'total_steps',
    'warmup_epochs', 'warmup_steps')
_FIELDS_OF_VIEWS = ('augment.view1.', 'augment.view2.')  # made on the host

# What the step is made of, within the package.
_SOURCES = (
    'all_reduce.py', 'augmentation', 'networks', 'objectives',
    'planning/collectives.py', 'planning/compilation.py', 'planning/hlo.py',
    'planning/ledger.py', 'planning/memory.py', 'planning/traffic.py',
    'training/cost.py', 'training/devices.py', 'training/optimizers.py',
    'training/schedules.py', 'training/sharding.py', 'training/state.py',
    'training/step.py')
_LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax')


def key_of(config: Any, *parts: Any) -> list[Any]:
  """Everything that a step depends on: its config, its code, and `parts`."""
  around = _FIELDS_AROUND_IT + (
      () if config.augment.device else _FIELDS_OF_VIEWS)
  fields = {
      name: value
      for name, value in config_lib.flatten(config_lib.to_dict(config)).items()
      if not config_changes.is_free(name) and not name.startswith(around)}
  versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
  return [sorted(fields.items()), versions, _source_digest(), *parts]


def _source_digest() -> str:
  digest = hashlib.sha256()
  for file in _source_files():
    digest.update(file.read_bytes())
  return digest.hexdigest()


def _source_files() -> list[pathlib.Path]:
  root = pathlib.Path(byol_jax.__file__).parent
  return sorted(
      file for name in _SOURCES
      for file in (
          (root / name).glob('*.py') if (root / name).is_dir()
          else [root / name]))


def remembered(
    kind: str, key: list[Any], make: Callable[[], Any],
    load: Callable[[dict[str, Any]], Any],
) -> tuple[Any, bool]:
  """What `make` gives for a key: from the cache folder, or made and kept.

  Args:
    kind: of what is made; part of a file's name.
    key: all that it depends on.
    make: returns a dataclass.
    load: makes one of its fields.

  Returns:
    It, and whether it was there already.
  """
  # Imported here, so that --help does not wait for TensorFlow.
  from byol_jax.data import cache
  path = cache.cached_file(f'plan-{kind}', key, '.json')
  try:
    return load(json.loads(path.read_text())), True
  except (OSError, ValueError, TypeError, KeyError):
    pass  # Not there, or written by another version.
  made = make()
  cache.remember(path, json.dumps(dataclasses.asdict(made)).encode())
  return made, False

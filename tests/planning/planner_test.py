"""One run, several slices: what is asked of the compiler, and how often."""

import pytest

from byol_jax import config as config_lib
from byol_jax.planning import datasets
from byol_jax.planning import isolation
from byol_jax.planning import libtpu
from byol_jax.planning import memory
from byol_jax.planning import planner as planner_lib
from byol_jax.planning import programs
from byol_jax.planning import slices

_SLICES = slices.parse_slices(['v4:2x2x1', 'v5e:2x4'])


class _Compiler:
  """Instead of libtpu: dies on v5e; memory is ten bytes an image."""

  def __init__(self):
    self.asked = []

  def __call__(self, config, num_classes, lengths, where):
    self.asked.append((where.name, config.batch_size, num_classes, lengths))
    if where.chip.name == 'v5e':
      raise isolation.CompilerDied('it died')
    images = config.batch_size // where.num_devices
    return programs.Program(seconds=1.0, memory=memory.Memory(
        limit=1000, state=100, batch=0, temporaries=10 * images, outputs=0,
        code=0))


@pytest.fixture
def compiler(monkeypatch):
  found = _Compiler()
  monkeypatch.setattr(isolation, 'compile_apart', found)
  monkeypatch.setattr(libtpu, 'version', lambda: '1.2.3')
  return found


def _plan(config):
  return planner_lib.Planner(config, datasets.Facts(640, 10), _SLICES)


def test_compiles_a_slice_once(tiny_config, compiler):
  planner = _plan(tiny_config)
  assert planner.describe(_SLICES[0], 0.5)['fits']
  assert planner.compile(_SLICES[0])[1] is False
  assert _plan(tiny_config).compile(_SLICES[0])[1] is True  # remembered
  assert compiler.asked == [('v4:2x2x1', 16, 10, (2, 8))]


def test_a_compiler_that_dies_leaves_what_needs_none(tiny_config, compiler):
  planner = _plan(tiny_config)
  figures = planner.describe(_SLICES[1], 0.5)
  assert not figures['compiled'] and figures['fits'] is None
  assert figures['at_floor']['images_per_second'] > 0
  assert planner.deaths == {_SLICES[1]: 'it died'}
  # It is asked again by the next command.
  _plan(tiny_config).describe(_SLICES[1], 0.5)
  assert len(compiler.asked) == 2


def test_a_search_changes_the_batch_alone(tiny_config, compiler):
  found = _plan(tiny_config).search(_SLICES[0], 6)
  assert (found.largest, found.too_large) == (88, 96)
  assert all(asked[2:] == (10, (2, 8)) for asked in compiler.asked)
  assert ('v4:2x2x1', 88 * 4, 10, (2, 8)) in compiler.asked
  assert tiny_config.batch_size == 16


def test_a_batch_must_divide_over_every_slice(tiny_config):
  tiny_config.batch_size = 12
  with pytest.raises(config_lib.ConfigError) as raised:
    _plan(tiny_config)
  assert str(raised.value).startswith(
      'on v5e:2x4: config.batch_size is 12, expected a multiple of 8')

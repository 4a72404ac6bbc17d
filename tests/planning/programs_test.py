"""What was compiled is found again, unless anything it rests on changed."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

import byol_jax
from byol_jax.planning import collectives
from byol_jax.planning import memory
from byol_jax.planning import programs

_FITS = programs.Program(
    seconds=1.5, flops=2e9, bytes_accessed=3e9, main_memory_bytes=10**9,
    memory=memory.Memory(
        limit=100, state=1, batch=2, temporaries=3, outputs=4, code=5),
    collectives=(collectives.Collective('all-reduce', 104, 150_000_000),))
_REFUSED = programs.Program(
    seconds=2.5, refusal=memory.Refusal(needed=200, limit=100))


@pytest.mark.parametrize('program', [_FITS, _REFUSED])
def test_json_and_back(program):
  fields = json.loads(json.dumps(dataclasses.asdict(program)))
  assert programs.to_program(fields) == program


def _remember(key, made):
  def make():
    made.append(key)
    return _FITS
  return programs.remembered('program', key, make, programs.to_program)


def test_made_once(tiny_config):
  made = []
  key = programs.key_of(tiny_config, 10, 'v4:2x2x1')
  assert _remember(key, made) == (_FITS, False)
  assert _remember(key, made) == (_FITS, True)
  assert _remember([*key, 'more'], made) == (_FITS, False)
  assert len(made) == 2


@pytest.mark.parametrize('contents', ['', '{"seconds": 1', '{"other": 1}', '3'])
def test_damaged_memories_are_made_again(contents, cache_home):
  made = []
  _remember(['key'], made)
  (path,) = (cache_home / 'byol_jax').iterdir()
  path.write_text(contents)
  assert _remember(['key'], made) == (_FITS, False)
  assert _remember(['key'], made) == (_FITS, True)


@pytest.mark.parametrize('field, value', [
    ('batch_size', 32), ('encoder', 'resnet18'), ('image_size', 16),
    ('accumulation_steps', 2), ('compute_dtype', 'bfloat16'),
    ('resnet.width', 1.0), ('optimizer', 'sgd'), ('momentum', 0.5),
    ('augment.mean', (0.5, 0.5, 0.5)), ('online_probe', False)])
def test_a_key_changes_with_the_step(tiny_config, field, value):
  before = programs.key_of(tiny_config, 10)
  tiny_config.update_from_flattened_dict({field: value})
  assert programs.key_of(tiny_config, 10) != before


@pytest.mark.parametrize('field, value', [
    ('log_every_steps', 7), ('name', 'x'), ('knn.k', 3), ('data', 'fake:9'),
    ('linear.num_epochs', 3), ('augment.view1.hue', 0.3)])
def test_a_key_does_not_change_with_what_is_around_it(
    tiny_config, field, value):
  before = programs.key_of(tiny_config, 10)
  tiny_config.update_from_flattened_dict({field: value})
  assert programs.key_of(tiny_config, 10) == before


def test_a_key_changes_with_the_code(tiny_config, monkeypatch):
  before = programs.key_of(tiny_config, 10)
  assert programs.key_of(tiny_config, 10) == before
  monkeypatch.setattr(programs, '_source_digest', lambda: 'other')
  assert programs.key_of(tiny_config, 10) != before


def test_the_sources_are_those_of_the_step():
  """All that importing it loads, but what makes no part of a program."""
  loaded = subprocess.run(
      [sys.executable, '-c',
       'import sys\nfrom byol_jax.training import step\n'
       'print(*(m.__file__ for n, m in sys.modules.items() '
       'if n.split(".")[0] == "byol_jax"))'],
      check=True, capture_output=True, text=True).stdout.split()
  root = pathlib.Path(byol_jax.__file__).parent
  sources = programs._source_files()
  assert all(file.is_file() for file in sources)
  others = {pathlib.Path(file) for file in loaded} - set(sources)
  assert {str(file.relative_to(root)) for file in others} == {
      '__init__.py', 'training/__init__.py',
      'config.py',  # by its values
      'platforms.py',  # of what runs once, on a CPU
      # What `training.devices` needs where there are other processes.
      'failures.py', 'peers.py', 'stopping.py', 'terminal.py'}

"""A compiler that dies takes nothing with it."""

import os
import resource
import signal

import pytest

from byol_jax import config as config_lib
from byol_jax.planning import isolation
from byol_jax.planning import slices

(WHERE,) = slices.parse_slices(['v6e:16x16'])


def _die(*_):
  os.kill(os.getpid(), signal.SIGSEGV)


def _refuse(*_):
  raise config_lib.ConfigError('libtpu does not know it')


def test_a_crash_is_one_line(monkeypatch, tiny_config):
  monkeypatch.setattr(isolation, '_compile', _die)
  with pytest.raises(config_lib.ConfigError) as raised:
    isolation.compile_apart(tiny_config, 10, (0, 1), WHERE)
  assert 'died while it compiled the step for v6e:16x16' in str(raised.value)


def test_an_error_comes_through(monkeypatch, tiny_config):
  monkeypatch.setattr(isolation, '_compile', _refuse)
  with pytest.raises(config_lib.ConfigError, match='does not know it'):
    isolation.compile_apart(tiny_config, 10, (0, 1), WHERE)


def _report_stack(*_):
  """How much a new thread may use, as far as the process's limit says."""
  return resource.getrlimit(resource.RLIMIT_STACK)[0]


def test_threads_have_room_to_go_deep(monkeypatch, tiny_config):
  monkeypatch.setattr(isolation, '_compile', _report_stack)
  _, hard = resource.getrlimit(resource.RLIMIT_STACK)
  if hard != resource.RLIM_INFINITY and hard < 2**30:
    pytest.skip(f'this machine allows no stack of more than {hard} bytes')
  assert isolation.compile_apart(tiny_config, 10, (0, 1), WHERE) == 2**30

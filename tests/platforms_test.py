"""A TPU's compiler without a TPU, and the threads of a CPU."""

import importlib.metadata
import os
import subprocess
import sys

import jax
import pytest

from byol_jax import platforms


@pytest.mark.parametrize('installed, device, told, expected', [
    (['libtpu'], None, None, 'cpu'),
    ([], None, None, None),
    (['libtpu', 'jax_plugins'], None, None, None),
    (['libtpu'], 'accel0', None, None),
    (['libtpu'], 'vfio/0', None, None),
    (['libtpu'], None, 'tpu', 'tpu')])
def test_only_a_tpu_that_is_not_there_is_left_out(
    installed, device, told, expected, monkeypatch, tmp_path):
  monkeypatch.setattr(
      platforms.importlib.util, 'find_spec',
      lambda name: name if name in installed else None)
  monkeypatch.delenv('JAX_PLATFORMS')
  if told:
    monkeypatch.setenv('JAX_PLATFORMS', told)
  if device:
    (tmp_path / device).parent.mkdir(exist_ok=True)
    (tmp_path / device).touch()
  platforms.leave_out_absent_tpu(tmp_path)
  assert os.environ.get('JAX_PLATFORMS') == expected


@pytest.mark.parametrize('devices, flags, cores, told, expected', [
    (None, '--xla_force_host_platform_device_count=4', 2, None, '8'),
    (None, '--xla_force_host_platform_device_count=4', 16, None, '16'),
    (None, '', 1, None, '2'),
    # The last one counts, as for XLA.
    (None, '--xla_force_host_platform_device_count=4 --xla_cpu=1 '
            '--xla_force_host_platform_device_count=3', 2, None, '6'),
    (None, '', 1, '5', '5'),
    ('6', '', 1, None, '12')])
def test_two_processes_have_the_threads_of_one(
    devices, flags, cores, told, expected, monkeypatch):
  for name, value in (('JAX_NUM_CPU_DEVICES', devices), ('PJRT_NPROC', told)):
    # Set first, so that what the function sets is taken back.
    monkeypatch.setenv(name, value or '')
    if value is None:
      monkeypatch.delenv(name)
  monkeypatch.setenv('XLA_FLAGS', flags)
  monkeypatch.setattr(platforms, 'cores', lambda: cores)
  platforms.have_threads_of_one_process(2)
  assert os.environ.get('PJRT_NPROC') == expected


@pytest.mark.parametrize('jaxlib, flags, expected', [
    ('0.10.2', '', '{flag}=-individual_convolution'),
    ('0.10.2', '--xla_cpu=1', '--xla_cpu=1 {flag}=-individual_convolution'),
    ('0.10.2', '{flag}=dot', '{flag}=dot'),
    # XLA ends a process that has a flag which it does not know.
    ('0.11.0', '', '')])
def test_convolutions_are_kept_from_ynnpack_where_jaxlib_can(
    jaxlib, flags, expected, monkeypatch):
  flag = '--xla_cpu_experimental_ynn_fusion_type'
  monkeypatch.setattr(
      platforms.importlib.metadata, 'version', lambda name: jaxlib)
  monkeypatch.setenv('XLA_FLAGS', flags.format(flag=flag))
  platforms.keep_convolutions_from_ynnpack()
  assert os.environ['XLA_FLAGS'] == expected.format(flag=flag)


def test_this_jaxlib_is_one_of_those():
  """Else convolutions are as slow as XLA has them: look at them again."""
  assert importlib.metadata.version('jaxlib').startswith(platforms.JAXLIBS)


@pytest.mark.parametrize('backend, flags, is_quick', [
    ('cpu', '', True), ('cpu', '--xla_backend_optimization_level=0', False),
    ('tpu', '', False)])
def test_what_runs_once_is_optimised_less(
    backend, flags, is_quick, monkeypatch):
  used = []
  jit = jax.jit

  def noting(fn, **kwargs):
    jitted = jit(fn, **kwargs)
    return lambda *args: used.append(kwargs) or jitted(*args)

  monkeypatch.setenv('XLA_FLAGS', flags)
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(jax, 'jit', noting)
  init = platforms.jit_to_run_once(lambda x: x + 1)
  assert int(init(1)) == 2
  assert used.pop() == (
      {'compiler_options': {'xla_backend_optimization_level': 1}}
      if is_quick else {})
  # As a part of another program it has no options of its own.
  assert jax.eval_shape(lambda: init(1)).shape == ()
  assert used.pop() == {}


def test_what_is_drawn_is_the_same():
  """To the bit, in a process without this suite's flags."""
  code = """
import jax
from byol_jax import config as config_lib
from byol_jax import platforms
from byol_jax.networks import network as network_lib
from byol_jax.training import devices, optimizers, state
jax.config.update('jax_enable_compilation_cache', False)
config = config_lib.get_base_config()
config.encoder, config.resnet.width, config.image_size = 'resnet10', 1 / 16, 8
network = network_lib.create_network(config, 10)
tx = optimizers.create_optimizer(config, lambda _: 0.1)
quick = platforms.jit_to_run_once
for sharding in None, devices.replicated_sharding():
  found = []
  for jit in quick, jax.jit:
    platforms.jit_to_run_once = jit
    found.append(jax.tree.leaves(state.make_create_train_state(
        network, tx, config, sharding)()))
  print(len(found[0]), all((a == b).all() for a, b in zip(*found)))
"""
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  done = subprocess.run(
      [sys.executable, '-c', code], env=environment, text=True, check=True,
      capture_output=True)
  for line in done.stdout.splitlines():
    count, is_same = line.split()
    assert int(count) > 50 and is_same == 'True'
  assert len(done.stdout.splitlines()) == 2

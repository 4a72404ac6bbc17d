"""A TPU's compiler without a TPU, and the threads of a CPU."""

import os

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

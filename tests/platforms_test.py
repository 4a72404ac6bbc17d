"""A TPU's compiler without a TPU."""

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

"""Checkpoints whose files are not whole."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.training import checkpoint


def _state():
  kernel = np.random.default_rng(0).normal(size=(64, 64)).astype('f4')
  return {'params': {'kernel': jnp.asarray(kernel)}, 'step': jnp.int32(3)}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  path = tmp_path_factory.mktemp('saved')
  checkpoints = checkpoint.Checkpoints(str(path), keep=2)
  for step in (3, 7):
    checkpoints.save(step, _state(), {'seconds': 1.5})
  checkpoints.close()
  return path


def _restore(workdir):
  checkpoints = checkpoint.Checkpoints(str(workdir), keep=2)
  try:
    step = checkpoints.latest_step()
    return step, checkpoints.restore_run(step), checkpoints.restore_state(
        step, jax.eval_shape(_state))
  finally:
    checkpoints.close()


def _largest(folder):
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def _cut(path):
  path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


@pytest.mark.parametrize('damage', [
    lambda step: _cut(_largest(step)),
    lambda step: _largest(step).unlink(),
    lambda step: _largest(step / 'state' / 'd').write_bytes(b''),
    lambda step: _cut(step / 'state' / 'manifest.ocdbt'),
    lambda step: _cut(step / 'state' / '_METADATA'),
    lambda step: (step / 'state' / '_METADATA').unlink(),
    lambda step: shutil.rmtree(step / 'state'),
    lambda step: _cut(step / 'run' / 'metadata'),
    lambda step: (step / 'run' / 'metadata').unlink(),
    lambda step: shutil.rmtree(step / 'run')])
def test_damage_is_one_line_and_the_older_one_goes_on(
    saved, tmp_path, damage):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  folder = tmp_path / 'checkpoints' / '7'
  damage(folder)
  with pytest.raises(config_lib.ConfigError) as error:
    _restore(tmp_path)
  assert str(error.value) == (
      f'the checkpoint {pathlib.Path(folder).resolve()} is cut short or '
      'damaged: delete that folder to go on from an older one, or from the '
      'start where there is none')
  shutil.rmtree(folder)
  step, run, state = _restore(tmp_path)
  assert (step, run) == (3, {'seconds': 1.5})
  np.testing.assert_array_equal(
      jax.tree.leaves(state)[0].addressable_data(0).squeeze(),
      _state()['params']['kernel'])


def test_what_is_not_the_files_fault_stays_as_it_is(saved):
  checkpoints = checkpoint.Checkpoints(str(saved), keep=2)
  for error in (MemoryError('out of memory'), RuntimeError('a device is lost'),
                ValueError('PERMISSION_DENIED: Error opening')):
    with pytest.raises(type(error), match=str(error)) as raised:
      with checkpoints._reading(7):
        raise error
    assert raised.value is error
  checkpoints.close()

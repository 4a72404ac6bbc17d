"""Checkpoints whose files are not whole."""

import errno
import shutil
import types

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import stopping
from byol_jax.quiet_tensorflow import tf
from byol_jax.training import checkpoint
from tests import remote


def _state():
  kernel = np.random.default_rng(0).normal(size=(64, 64)).astype('f4')
  return {'params': {'kernel': jnp.asarray(kernel)}, 'step': jnp.int32(3)}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  path = tmp_path_factory.mktemp('saved')
  checkpoints = checkpoint.Checkpoints(str(path), keep=2)
  for step in (3, 7):
    checkpoints.save(step, _state(), {'config': {}, 'seconds': 1.5})
  checkpoints.close()
  return path


def _restore(workdir, **options):
  checkpoints = checkpoint.Checkpoints(str(workdir), keep=2)
  try:
    return checkpoints.restore_newest(
        lambda _: jax.eval_shape(_state), **options)
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
def test_what_is_damaged_is_named_and_the_older_one_taken(
    saved, tmp_path, damage, caplog):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  folder = tmp_path / 'checkpoints' / '7'
  damage(folder)
  step, run, state = _restore(tmp_path)
  assert (step, run) == (3, {'config': {}, 'seconds': 1.5})
  _assert_restored(state)
  named, lost = (record.getMessage() for record in caplog.records
                 if record.pathname == checkpoint.__file__)
  assert named.startswith(
      f'the checkpoint {folder.resolve()} is cut short or damaged (')
  assert lost == (
      'going on from the checkpoint of step 3 instead: 4 steps are lost')
  assert folder.parent.is_dir()  # a reader moves nothing
  _restore(tmp_path, set_aside=True)
  assert not folder.exists()
  assert (tmp_path / 'damaged_checkpoints' / '7').is_dir()


def _assert_restored(state):
  np.testing.assert_array_equal(
      jax.tree.leaves(state)[0].addressable_data(0).squeeze(),
      _state()['params']['kernel'])


def test_no_flipped_byte_goes_unseen(saved, tmp_path, caplog):
  """Wherever it is: what is restored is what was saved, or the older one."""
  rng = np.random.default_rng(0)
  files = [path.relative_to(saved) for path in sorted(
      (saved / 'checkpoints' / '7').rglob('*'))
           if path.is_file() and path.stat().st_size]
  older = 0
  for number in range(24):
    workdir = tmp_path / str(number)
    shutil.copytree(saved, workdir)
    path = workdir / files[number % len(files)]
    contents = bytearray(path.read_bytes())
    contents[rng.integers(len(contents))] ^= 1 << int(rng.integers(8))
    path.write_bytes(contents)
    step, run, state = _restore(workdir)
    assert run == {'config': {}, 'seconds': 1.5}
    _assert_restored(state)
    older += step == 3
  assert older > 6  # the rest hit bytes that say nothing


def test_a_changed_number_in_the_note_is_damage(saved, tmp_path):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  path = tmp_path / 'checkpoints' / '7' / 'run' / 'metadata'
  path.write_text(path.read_text().replace('1.5', '1.6'))
  assert _restore(tmp_path).step == 3


def test_only_who_has_the_workdir_removes_what_is_unfinished(saved, tmp_path):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  unfinished = tmp_path / 'checkpoints' / '9.orbax-checkpoint-tmp'
  unfinished.mkdir()
  checkpoint.Checkpoints(str(tmp_path), keep=2).close()
  assert unfinished.exists()
  checkpoint.Checkpoints(str(tmp_path), keep=2, is_ours=True).close()
  assert not unfinished.exists()


def test_none_that_is_whole(saved, tmp_path):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  for step in (3, 7):
    _cut(_largest(tmp_path / 'checkpoints' / str(step)))
  with pytest.raises(
      checkpoint.DamagedError, match=r'none of the checkpoints .*\(7, 3\)'):
    _restore(tmp_path)


def test_notes_of_earlier_versions_are_read():
  note = {'config': {}, 'seconds': 1.5}
  assert checkpoint._unseal(note) == (note, {})


class _Disk:
  """A manager whose saves fail while the disk is full."""

  def __init__(self, checkpoints):
    self.is_full = False
    self._checkpoints = checkpoints
    self._open = checkpoints._open
    checkpoints._open = lambda: self._wrap(self._open())
    checkpoints._manager = self._wrap(checkpoints._manager)

  def _wrap(self, manager):
    wait = manager.wait_until_finished

    def wait_until_finished():
      wait()
      directory = self._checkpoints.directory
      written = directory / str(self._checkpoints._pending)
      if self.is_full and written.exists():
        written.rename(f'{written}.orbax-checkpoint-tmp')
        raise OSError(28, 'No space left on device')

    manager.wait_until_finished = wait_until_finished
    return manager


def test_a_save_that_fails_costs_nothing_else(tmp_path, caplog):
  checkpoints = checkpoint.Checkpoints(str(tmp_path), keep=2)
  disk = _Disk(checkpoints)

  def save(step):
    checkpoints.save(step, _state(), {'config': {}})
    return checkpoints.wait()

  assert save(1)
  disk.is_full = True
  assert not save(2)
  assert not save(3)
  disk.is_full = False
  assert save(4)
  assert sorted(p.name for p in checkpoints.directory.iterdir()) == ['1', '4']
  checkpoints.close()
  assert [record.getMessage() for record in caplog.records
          if record.pathname == checkpoint.__file__] == [
      f'saving step {step} failed (No space left on device); the checkpoint '
      f'of step {kept} is kept' for step, kept in ((2, 1), (3, 1))]
  assert _restore(tmp_path).step == 4


def test_the_last_save_is_tried_until_there_is_room(
    tmp_path, monkeypatch, caplog):
  checkpoints = checkpoint.Checkpoints(str(tmp_path), keep=2)
  disk = _Disk(checkpoints)
  disk.is_full = True
  waited = []

  def sleep(secs):
    waited.append(secs)
    disk.is_full = len(waited) < 3

  monkeypatch.setattr(checkpoint.time, 'sleep', sleep)
  checkpoints.save_surely(8, _state(), {'config': {}})
  assert len(waited) == 3
  disk.is_full = True
  monkeypatch.setattr(checkpoint.time, 'sleep', lambda _: None)
  with pytest.raises(OSError, match='step 9 could not be saved .No space'):
    checkpoints.save_surely(9, _state(), {'config': {}})
  answers = iter((False, True))
  with pytest.raises(stopping.UnfinishedError) as raised:
    checkpoints.save_surely(
        10, _state(), {'config': {}}, lambda: next(answers))
  assert str(raised.value) == (
      'stopped; step 10 could not be saved (No space left on device); the '
      'checkpoint of step 8 is kept. Make room, then run again')
  disk.is_full = False
  checkpoints.close()


def test_of_several_processes_none_waits_for_one_that_cannot_save(
    tmp_path, monkeypatch):
  checkpoints = checkpoint.Checkpoints(str(tmp_path))

  def refuse(*_, **__):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(checkpoints._manager, 'save', refuse)
  monkeypatch.setattr(checkpoint, 'jax', types.SimpleNamespace(
      process_count=lambda: 2, process_index=lambda: 1))
  with pytest.raises(stopping.UnfinishedError) as raised:
    checkpoints.save(3, _state(), {'config': {}})
  assert raised.value.code == 75
  assert str(raised.value).startswith(
      'saving step 3 failed in process 1 (No space left on device)')


def test_an_outage_of_a_remote_disk_is_one_of_the_disk():
  """While a failed save is cleared up, of which nothing may be left over."""
  class Remote:
    def iterdir(self):
      raise tf.errors.UnavailableError(None, None, 'the service is down')

  assert checkpoint._unfinished(Remote()) == []
  assert checkpoint._steps_on_disk(Remote()) == []


def test_what_was_not_finished_in_a_bucket_is_no_checkpoint():
  """A folder is not renamed there; that it is whole says a file in it."""
  with remote.bucket() as bucket:
    directory = epath.Path(bucket) / 'checkpoints'
    for step in (35, 42):
      (directory / str(step)).mkdir(parents=True)
    (directory / '35' / 'commit_success.txt').write_text('whole')
    assert checkpoint._steps_on_disk(directory) == [35]
    # It may have been copied there from a disk, where there is no such file.
    assert checkpoint._unfinished(directory) == []


@pytest.fixture
def given_back(monkeypatch):
  """How often free memory was given back."""
  calls = []
  monkeypatch.setattr(
      checkpoint.host_memory, 'give_back', lambda: calls.append(1))
  return calls


def test_each_save_gives_back_what_is_free(tmp_path, given_back):
  checkpoints = checkpoint.Checkpoints(str(tmp_path))
  for step in (1, 2):
    checkpoints.save(step, _state(), {})
  checkpoints.close()
  assert len(given_back) == 2


def test_what_is_not_the_files_fault_stays_as_it_is(saved):
  checkpoints = checkpoint.Checkpoints(str(saved), keep=2)
  for error in (MemoryError('out of memory'), RuntimeError('a device is lost'),
                ValueError('PERMISSION_DENIED: Error opening')):
    with pytest.raises(type(error), match=str(error)) as raised:
      with checkpoints._reading(7):
        raise error
    assert raised.value is error
  checkpoints.close()

"""From a file of DeepMind's to a run that is evaluated, loaded and goes on."""

import json
import math
import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

import byol_jax
from byol_jax import config as config_lib
from byol_jax.interchange import deepmind_workdir
from byol_jax.interchange import torch_layout
from byol_jax.training import checkpoint
from byol_jax.training import devices
from byol_jax.training import loop
from byol_jax.training import resume
from byol_jax.training import saved_run
from byol_jax.training import setup as setup_lib
from configs import workdir as workdir_config

GOLDEN = pathlib.Path(__file__).parent / 'golden'
FILE = str(GOLDEN / 'dm_tiny_checkpoint.pkl')
FILES = (FILE, str(GOLDEN / 'dm_tiny_checkpoint_2020style.pkl'))
EXPECTED = np.load(GOLDEN / 'dm_tiny_expected.npz')


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
  workdir = str(tmp_path_factory.mktemp('imported') / 'run')
  assert deepmind_workdir.import_checkpoint(FILE, workdir) == 4
  return workdir


@pytest.mark.parametrize('file', FILES)
def test_embeddings_of_the_loaded_encoder(tmp_path, file):
  workdir = str(tmp_path / 'run')
  deepmind_workdir.import_checkpoint(file, workdir)
  encode = byol_jax.load_encoder(workdir)
  expected = EXPECTED['online/embedding']
  got = encode(EXPECTED['images_u8'].astype(np.float32) / np.float32(255))
  np.testing.assert_allclose(
      got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
  assert encode.step == 4


def test_what_the_workdir_says(imported):
  origin = json.loads((pathlib.Path(imported) / 'origin.json').read_text())
  assert origin['licence'] == 'CC BY-NC 4.0'
  assert origin['file'] == 'dm_tiny_checkpoint.pkl'
  assert len(origin['sha256']) == 64
  config, _, state = saved_run.restore(imported)
  assert workdir_config.get_config(imported).to_dict() == config.to_dict()
  assert config.resnet.padding == 'same'
  assert int(state.step) == 4


def _resumed(workdir, **fields):
  config = workdir_config.get_config(workdir)
  config.update(
      data='fake:64', test_split='', image_size=32, batch_size=8,
      total_steps=5, warmup_steps=1, final_protocols=(), base_tau=0.9,
      **fields)
  return config


def _one_update(workdir, config):
  """As `loop.pretrain` resumes, without its evaluations."""
  setup = setup_lib.set_up(config)
  checkpoints = checkpoint.Checkpoints(workdir)
  state, _ = resume.first_state(
      setup, checkpoints, workdir, accept_config_changes=True)
  checkpoints.close()
  batches = setup.create_batches(int(state.step))
  state, *_ = setup.p_train_step(
      state, next(batches), devices.ballot((False, 0)))
  return jax.device_get(state)


def test_pretraining_goes_on(imported):
  """With a learning rate of 0, every part of the next update is known."""
  before = jax.device_get(saved_run.restore(imported)[2])
  after = _one_update(imported, _resumed(imported, base_learning_rate=0.0))
  assert int(after.step) == 5
  assert int(optax.tree.get(after.opt_state, 'count')) == 5
  jax.tree.map(
      np.testing.assert_array_equal, after.online_params,
      before.online_params)
  # The target follows, as far as the schedule is at step 4 of 5.
  tau = 1 - 0.1 * (math.cos(math.pi * 4 / 5) + 1) / 2
  for part, tree in before.target_params.items():
    jax.tree.map(
        lambda new, old, online: np.testing.assert_allclose(
            new, tau * old + (1 - tau) * online, rtol=1e-5, atol=1e-6),
        after.target_params[part], tree, before.online_params[part])
  # LARS adds a gradient of the length 1e-3 |p| to what it had.
  old, new = (
      optax.tree.get(state.opt_state, 'trace') for state in (before, after))
  lengths = jax.tree.map(
      lambda new, old, p: np.linalg.norm(new - 0.9 * old) / np.linalg.norm(p),
      new, old, before.online_params)
  for path, length in jax.tree_util.tree_leaves_with_path(lengths):
    if path[-1].key == 'kernel':
      np.testing.assert_allclose(length, 1e-3, rtol=1e-3, err_msg=path)


@pytest.mark.slow
def test_pretraining_to_its_end(tmp_path):
  workdir = str(tmp_path / 'run')
  deepmind_workdir.import_checkpoint(FILE, workdir)
  loop.pretrain(
      _resumed(workdir, base_learning_rate=4.0), workdir,
      accept_config_changes=True)
  after = saved_run.restore(workdir)[2]
  moved = np.abs(
      after.online_params['projector']['dense1']['kernel']
      - EXPECTED['tree/online_params/projector/linear/w']).max()
  assert 1e-6 < moved < 1
  rows = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(row)['step'] for row in rows][0] == 5


def test_another_number_of_classes(tmp_path, imported):
  config = workdir_config.get_config(imported)
  np.savez(tmp_path / 'data.npz', image=np.zeros((16, 32, 32, 3), np.uint8),
           label=np.arange(16) % 3)
  config.update(data=f'arrays:{tmp_path}/data.npz', test_split='',
                image_size=32, batch_size=8, total_steps=5, warmup_steps=1)
  with pytest.raises(config_lib.ConfigError, match='num_classes: 10, 3'):
    loop.pretrain(config, imported)


def test_torchvision_cannot_express_it(imported):
  config, _, _ = saved_run.restore(imported)
  with pytest.raises(config_lib.ConfigError, match="padding is 'same'"):
    torch_layout.check_expressible(config)
  config.resnet.padding = 'torch'
  config.resnet.projection_shortcut = 'shape'
  with pytest.raises(config_lib.ConfigError, match='channels_per_group'):
    torch_layout.check_expressible(config)


def test_config_of_the_run_to_be(tmp_path):
  config = config_lib.get_base_config()
  config.update(base_learning_rate=0.3, weight_decay=1e-6, base_tau=0.99,
                num_epochs=300, compute_dtype='bfloat16')
  workdir = str(tmp_path / 'run')
  deepmind_workdir.import_checkpoint(FILE, workdir, config, licence='mine')
  saved = workdir_config.get_config(workdir)
  assert (saved.base_learning_rate, saved.num_epochs) == (0.3, 300)
  assert saved.compute_dtype == 'float32'
  origin = json.loads((tmp_path / 'run' / 'origin.json').read_text())
  assert origin['licence'] == 'mine'


# Slips.


def test_an_output_that_is_a_run(imported):
  before = sorted(pathlib.Path(imported).rglob('*'))
  with pytest.raises(config_lib.ConfigError, match='holds checkpoints'):
    deepmind_workdir.import_checkpoint(FILE, imported)
  assert sorted(pathlib.Path(imported).rglob('*')) == before


def test_an_import_that_was_interrupted(tmp_path):
  unfinished = tmp_path / 'run' / 'checkpoints' / '4.orbax-checkpoint-tmp'
  unfinished.mkdir(parents=True)
  deepmind_workdir.import_checkpoint(FILE, str(tmp_path / 'run'))
  assert byol_jax.load_encoder(str(tmp_path / 'run')).step == 4


@pytest.mark.parametrize('length', [0, 1, 1000, 200_000, -1])
def test_a_file_cut_short(tmp_path, length):
  path = tmp_path / 'cut.pkl'
  path.write_bytes(pathlib.Path(FILE).read_bytes()[:length])
  with pytest.raises(config_lib.ConfigError, match='cut short|is empty'):
    deepmind_workdir.import_checkpoint(str(path), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_no_file(tmp_path):
  with pytest.raises(config_lib.ConfigError, match='no such file'):
    deepmind_workdir.import_checkpoint('/no/file', str(tmp_path / 'run'))


def test_another_pickle(tmp_path):
  path = tmp_path / 'other.pkl'
  path.write_bytes(pickle.dumps({'state_dict': {'conv1.weight': 1}}))
  with pytest.raises(config_lib.ConfigError, match="holds 'state_dict', exp"):
    deepmind_workdir.import_checkpoint(str(path), str(tmp_path / 'run'))


def test_the_job_ends_in_one_line(tmp_path):
  path = tmp_path / 'hostile.pkl'
  path.write_bytes(b'cposix\nsystem\n(Vtouch ' + str(
      tmp_path / 'canary').encode() + b'\ntR.')
  result = subprocess.run(
      [sys.executable, '-m', 'byol_jax.import_deepmind', f'--input={path}',
       f'--output={tmp_path}/run'], capture_output=True, text=True)
  assert result.returncode == 1
  assert result.stderr.strip().splitlines()[-1] == (
      f'error: {path} is refused: it refers to posix.system, which a '
      'checkpoint does not need. Nothing in it was run')
  assert not (tmp_path / 'canary').exists()
  assert not (tmp_path / 'run').exists()


def test_config_of_no_workdir(tmp_path):
  with pytest.raises(ValueError, match='config.json'):
    workdir_config.get_config(str(tmp_path))

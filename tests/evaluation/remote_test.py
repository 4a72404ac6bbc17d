"""What a workdir holds, on gs:// as on a disk; see `tests/remote.py`."""

import json
import time

from absl import flags
from absl.testing import flagsaver
from etils import epath
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax import evaluate
from byol_jax import load_encoder
from byol_jax.data import preview_grid
from byol_jax.evaluation import comparison
from byol_jax.evaluation import comparison_page
from byol_jax.evaluation import final
from byol_jax.evaluation import gallery
from byol_jax.evaluation import progress
from byol_jax.evaluation import records
from byol_jax.evaluation import report
from byol_jax.evaluation import subject
from byol_jax.interchange import flax_folder
from byol_jax.interchange import pretrained
from byol_jax.networks import network as network_lib
from byol_jax.training import optimizers
from byol_jax.training import state as state_lib
from configs import workdir as workdir_config
from tests import remote


@pytest.fixture
def bucket():
  with remote.bucket() as path:
    yield path


class _Mean(nn.Module):
  """Compiles in a moment."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(16)(x.reshape(len(x), -1))


@pytest.fixture
def config(tiny_config):
  tiny_config.data = 'fake:48'
  tiny_config.linear.update(augment=False, num_epochs=2, batch_size=32)
  tiny_config.final_protocols = ('knn', 'linear')
  return tiny_config


def _finish(config, workdir):
  """The end of a run in `workdir`."""
  workdir = epath.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / 'config.json').write_text(json.dumps(config_lib.to_dict(config)))
  (workdir / 'metrics.jsonl').write_text(''.join(
      json.dumps({'step': step, 'train/loss': 1.0 / step,
                  'perf/seconds': 2.0 * step}) + '\n' for step in (1, 2)))
  preview_grid.write_png(np.zeros((4, 4, 3), np.uint8), f'{workdir}/views.png')
  sources = subject.open_sources(config)
  network = network_lib.create_network(
      config, sources.train.num_classes, _Mean())
  tx = optimizers.create_optimizer(config, lambda _: 0.0)
  rng = np.random.default_rng(0)
  state = jax.tree.map(
      lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype),
      jax.eval_shape(lambda: state_lib.create_train_state(network, tx, config)))
  final.evaluate_and_report(
      config, network, state.replace(step=jnp.int32(2)), state, sources,
      config.final_protocols, str(workdir), time.monotonic())
  return workdir


def _contents(folder, inside=''):
  """Bytes of all files, by their paths."""
  found = {}
  for path in folder.iterdir():
    name = f'{inside}{path.name}'
    found |= _contents(path, f'{name}/') if path.is_dir() else {
        name: path.read_bytes()}
  return found


def test_a_runs_end_is_the_same_there(config, tmp_path, bucket, capsys):
  there = _finish(config, f'{bucket}/run')
  assert f'report: {bucket}/run/report.html' in capsys.readouterr().out
  there, here = _contents(there), _contents(_finish(config, tmp_path / 'run'))
  assert there.keys() == here.keys() and len(here) == 11, sorted(here)
  for name, content in here.items():
    if name not in ('result.json', 'neighbors.npz'):  # times
      assert there[name] == content.replace(
          str(tmp_path).encode(), bucket.encode()), name
  for made in here, there:
    result = json.loads(made['result.json'])
    assert result['knn_top1'] and result['linear_top1']


def test_what_is_made_of_it_afterwards(config, bucket):
  workdir = _finish(config, f'{bucket}/runs/one')
  assert len(records.read_all(workdir)) == 4
  assert gallery.read(workdir).neighbor.shape[1] == 7
  before = (workdir / 'report.html').read_bytes()
  (workdir / 'report.html').unlink()
  assert report.write_report(workdir) == workdir / 'report.html'
  assert (workdir / 'report.html').read_bytes() == before
  assert workdir_config.get_config(str(workdir)).data == 'fake:48'
  comparison.write(
      comparison.compare(f'{bucket}/runs'), f'{bucket}/compared.json')
  page, picture = comparison_page.write(f'{bucket}/compared')
  assert 'as in one;' in page.read_text()
  assert picture.read_bytes().startswith(b'\x89PNG')


def test_who_has_no_run_there_is_told(bucket):
  for call in (report.write_report, comparison.compare, load_encoder):
    with pytest.raises(config_lib.ConfigError, match=f'{bucket}/nothing'):
      call(f'{bucket}/nothing')


def test_unfinished_work_is_kept_there(bucket):
  job = progress.Progress(f'{bucket}/unfinished')
  assert job.get('part0') is None
  for value in 1, 2:  # replaced, too
    job.put('part0', {'x': np.full(3, value), 'next_step': 7})
  found = progress.Progress(f'{bucket}/unfinished').get('part0')
  np.testing.assert_array_equal(found['x'], [2, 2, 2])
  assert found['next_step'] == 7
  assert job.place('fit') == f'{bucket}/unfinished/fit'


def test_an_evaluation_goes_on_there(config, bucket, tmp_path, monkeypatch):
  """Cut short by a signal, then given again."""
  path = tmp_path / 'tiny.py'
  path.write_text(
      'from byol_jax import config as config_lib\nimport json\n\n\n'
      'def get_config():\n  return config_lib.from_dict(json.loads('
      f'{json.dumps(json.dumps(config_lib.to_dict(config)))}))\n')
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['test'])
  output = epath.Path(bucket) / 'random'
  written = []

  def write(directory, record):
    written.append(record['protocol'])
    if len(written) == 2:
      raise KeyboardInterrupt
    return records_write(directory, record)

  records_write = records.write
  monkeypatch.setattr(records, 'write', write)
  with flagsaver.flagsaver(
      checkpoint='random', config=str(path), output=str(output),
      protocol=['knn', 'linear']):
    with pytest.raises(KeyboardInterrupt):
      evaluate.main([])
    kept = _contents(output / 'evaluations/unfinished')
    assert any(name.endswith('results/process0/knn.npz') for name in kept)
    monkeypatch.setattr(records, 'write', records_write)
    evaluate.main([])
  assert _contents(output).keys() == {
      'evaluations/knn-fake-48-random_init.json', 'evaluations/table.md',
      'evaluations/linear-fake-48-random_init.json'}


def test_an_export_is_read_there(config, bucket, tmp_path):
  network = network_lib.create_network(config, None)
  variables = jax.tree.map(
      lambda x: np.ones(x.shape, x.dtype), jax.eval_shape(
          network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
  made = tmp_path / 'export'
  made.mkdir()
  flax_folder.write(made, pretrained.create(
      config, network, variables, step=3))
  there = epath.Path(bucket) / 'export'
  there.mkdir(parents=True)
  for file in made.iterdir():
    (there / file.name).write_bytes(file.read_bytes())
  images = np.full((2, 8, 8, 3), 0.5, np.float32)
  np.testing.assert_array_equal(
      load_encoder(str(there))(images), load_encoder(str(made))(images))

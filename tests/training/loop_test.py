"""The run: what it writes, how it stops, how it goes on."""

import dataclasses
import functools
import json
import os
import pathlib
import signal

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from byol_jax import config as config_lib
from byol_jax import locks
from byol_jax import stopping
from byol_jax.evaluation import features
from byol_jax.evaluation import knn
from byol_jax.training import checkpoint
from byol_jax.training import devices
from byol_jax.training import loop
from byol_jax.training import resume
from byol_jax.training import saved_run
from byol_jax.training import setup as setup_lib
from byol_jax.training import sharding
from byol_jax.training import state as state_lib
from byol_jax.training import step as step_lib


def _state(workdir, encoder):
  return saved_run.restore(str(workdir), encoder)[2]


def _rows(workdir):
  lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def _without_clock(workdir):
  return [
      {k: v for k, v in row.items() if not k.startswith('perf/')}
      for row in _rows(workdir)]


def _assert_equal(a, b):
  """Bit for bit, every leaf."""
  a, b = jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)
  assert len(a) == len(b)
  for (path, x), y in zip(a, b, strict=True):
    np.testing.assert_array_equal(
        x, y, err_msg=jax.tree_util.keystr(path), strict=True)


@pytest.fixture(autouse=True)
def _no_report(request, monkeypatch):
  """The end of a run has tests of its own; here it would be most of the time.
  """
  if 'with_report' not in request.keywords:
    monkeypatch.setattr(loop.final, 'evaluate_and_report', lambda *_: None)


@pytest.fixture
def _set_up_once(tiny_config, tiny_encoder, monkeypatch):
  """Compiles once for all runs of a test, which have the same config."""
  set_up = functools.partial(setup_lib.set_up, tiny_config, tiny_encoder)
  cached = functools.cache(set_up)
  monkeypatch.setattr(setup_lib, 'set_up', lambda *_: cached())


def _pretrain(config, workdir, encoder):
  loop.pretrain(config, str(workdir), encoder)
  return _state(workdir, encoder)


class _Killed(BaseException):
  """Not to be caught, like a signal."""


def _killed_at(monkeypatch, step):
  """Makes the next run die after taking the batch of `step`."""
  prefetch = devices.prefetch

  def dying(batches, size=2):
    for n, batch in enumerate(prefetch(batches, size)):
      if n == step:
        raise _Killed
      yield batch

  monkeypatch.setattr(devices, 'prefetch', dying)


@pytest.mark.usefixtures('_set_up_once')
@pytest.mark.parametrize('norm, shard_state', [
    ('batch', False), ('batch', True),
    pytest.param('affine_init', False, marks=pytest.mark.slow)])
def test_resuming_equals_never_stopping(
    norm, shard_state, tiny_config, tiny_encoder, tmp_path, monkeypatch):
  """Killed twice, once before any save, a run ends bit for bit the same."""
  monkeypatch.setattr(sharding, '_FEW', 64)
  monkeypatch.setattr(sharding, '_TILE_ROWS', 1)
  tiny_config.shard_state = shard_state
  tiny_config.projector_norm = tiny_config.predictor_norm = norm
  expected = _pretrain(tiny_config, tmp_path / 'whole', tiny_encoder)
  for step in (3, 6):
    with monkeypatch.context() as patch:
      _killed_at(patch, step)
      with pytest.raises(_Killed):
        _pretrain(tiny_config, tmp_path / 'killed', tiny_encoder)
  state = _pretrain(tiny_config, tmp_path / 'killed', tiny_encoder)
  _assert_equal(expected, state)
  assert int(state.step) == 8

  assert _without_clock(tmp_path / 'killed') == _without_clock(
      tmp_path / 'whole')


@pytest.fixture
def _compiled_in_a_moment():
  """What runs for three steps need not be fast."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
  jax.clear_caches()


@pytest.mark.usefixtures('_compiled_in_a_moment')
def test_resuming_a_resnet_that_started_from_data(
    tiny_config, tmp_path, monkeypatch):
  """Its layers are not made anew from another batch."""
  config = tiny_config
  config.encoder_norm = config.projector_norm = 'affine_init'
  config.test_split = ''
  config.total_steps, config.warmup_steps = 3, 1
  config.checkpoint_every_steps = 2
  # Compiled once.
  setup = setup_lib.set_up(config)
  monkeypatch.setattr(setup_lib, 'set_up', lambda *_: setup)
  expected = _pretrain(config, tmp_path / 'whole', None)
  with monkeypatch.context() as patch:
    _killed_at(patch, 2)
    with pytest.raises(_Killed):
      loop.pretrain(config, str(tmp_path / 'killed'))
  assert (tmp_path / 'killed' / 'checkpoints' / '2').is_dir()
  _assert_equal(expected, _pretrain(config, tmp_path / 'killed', None))


@pytest.mark.with_report
def test_what_a_run_writes(tiny_config, tiny_encoder, tmp_path, capsys):
  tiny_config.final_protocols = ('knn',)
  _pretrain(tiny_config, tmp_path, tiny_encoder)
  rows = _rows(tmp_path)
  assert [r['step'] for r in rows if 'train/loss' in r] == [2, 4, 6, 8]
  assert [r['step'] for r in rows if 'knn/test_top1' in r] == [4, 8]
  first = rows[0]
  assert 0 < first['train/loss'] < 8
  assert {
      'train/tau', 'train/learning_rate', 'train/grad_norm',
      'train/param_norm', 'train/update_norm', 'train/embedding_std',
      'train/projection_std', 'train/cosine', 'online_probe/train_loss',
      'perf/images_per_second'} <= first.keys()
  assert any('online_probe/test_top1' in r for r in rows)
  assert any('diagnostics/embedding_rank' in r for r in rows)
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config_lib.to_dict(config_lib.from_dict(config)) == config
  assert (tmp_path / 'views.png').stat().st_size
  assert list(tmp_path.glob('events.out.tfevents.*'))
  assert (tmp_path / 'report.html').exists()
  result = json.loads((tmp_path / 'result.json').read_text())
  assert {'knn_top1', 'random_init_knn_top1', 'images_per_second',
          'seconds'} <= result.keys()
  output = capsys.readouterr().out
  assert 'step 8/8  epoch 2.00  loss' in output
  assert output.count('first step after ') == 1
  assert first['perf/first_step_seconds'] > first['perf/compile_seconds'] > 0
  assert not any('perf/first_step_seconds' in row for row in rows[1:])


def test_the_host_reads_nothing_but_the_previous_metrics(
    tiny_config, tiny_encoder, tmp_path, monkeypatch):
  """One fetch a step, of scalars, of the step before; one compile in all.

  The loop's transfer guard forbids what is implicit; on a CPU it sees only
  what goes to the device, so fetches are counted here.
  """
  fetched, traces = [], []
  device_get = jax.device_get
  make_train_step = step_lib.make_train_step

  def make_traced(*args, **kwargs):
    train_step = make_train_step(*args, **kwargs)
    return lambda *inputs: (traces.append(inputs), train_step(*inputs))[1]

  monkeypatch.setattr(step_lib, 'make_train_step', make_traced)
  setup = setup_lib.set_up(tiny_config, tiny_encoder)
  dispatched = 0

  def counting_step(*args):
    nonlocal dispatched
    dispatched += 1
    return setup.p_train_step(*args)

  def counting_get(tree):
    fetched.append((dispatched, tree))
    return device_get(tree)

  counted = dataclasses.replace(
      setup, p_train_step=counting_step, evaluate=lambda *_: ())
  tiny_config.checkpoint_every_steps = 100
  tiny_config.evaluate_every_steps = 100
  checkpoints = checkpoint.Checkpoints(str(tmp_path))
  state = devices.replicate(setup.create_state())
  with monkeypatch.context() as patch:
    patch.setattr(jax, 'device_get', counting_get)
    loop.Loop(
        counted, checkpoints, str(tmp_path), resume.first_note(setup), 0.0,
    ).run(state)
  checkpoints.close()
  # Of the first batch, what is shown.
  assert fetched.pop(0)[0] == 0
  # Step n is fetched once n + 1 is dispatched; the last one at the end.
  assert [n for n, _ in fetched] == [2, 3, 4, 5, 6, 7, 8, 8]
  for _, tree in fetched:
    assert all(leaf.size <= 2 for leaf in jax.tree.leaves(tree))
  assert len(traces) == 1


def test_implicit_transfers_stop_the_loop(
    tiny_config, tiny_encoder, tmp_path):
  """Batches that are not on the devices yet would be copied in the step."""
  setup = setup_lib.set_up(tiny_config, tiny_encoder)
  on_the_host = dataclasses.replace(
      setup, create_batches=lambda *args: (
          device_get_tree(batch) if number else batch
          for number, batch in enumerate(setup.create_batches(*args))))
  checkpoints = checkpoint.Checkpoints(str(tmp_path))
  with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
    loop.Loop(
        on_the_host, checkpoints, str(tmp_path), resume.first_note(setup), 0.0,
    ).run(devices.replicate(setup.create_state()))
  checkpoints.close()


def device_get_tree(tree):
  return jax.tree.map(np.asarray, tree)


def test_checkpoints_kept(tiny_config, tiny_encoder, tmp_path):
  tiny_config.checkpoint_every_steps = 2
  tiny_config.checkpoints_to_keep = 2
  _pretrain(tiny_config, tmp_path, tiny_encoder)
  kept = sorted(p.name for p in (tmp_path / 'checkpoints').iterdir())
  assert kept == ['6', '8']


def test_another_network_in_the_workdir(tiny_config, tiny_encoder, tmp_path):
  tiny_config.total_steps = 2
  _pretrain(tiny_config, tmp_path, tiny_encoder)
  tiny_config.projector.output_size = 4
  tiny_config.predictor.depth = 3
  with pytest.raises(config_lib.ConfigError) as error:
    loop.pretrain(tiny_config, str(tmp_path), tiny_encoder)
  assert 'predictor.depth: 2, 3' in str(error.value)
  assert 'projector.output_size: 8, 4' in str(error.value)
  with pytest.raises(config_lib.ConfigError, match='custom_encoder: .Tiny'):
    loop.pretrain(tiny_config, str(tmp_path))


def test_another_encoder_of_the_same_name(
    tiny_config, tiny_encoder, tmp_path):
  """What the config cannot tell apart, the arrays' shapes do."""
  tiny_config.total_steps = 2
  _pretrain(tiny_config, tmp_path, tiny_encoder)

  class TinyEncoder(nn.Module):

    @nn.compact
    def __call__(self, x):
      return nn.Dense(8)(jnp.mean(x, axis=(1, 2)))

  with pytest.raises(config_lib.ConfigError) as error:
    loop.pretrain(tiny_config, str(tmp_path), TinyEncoder())
  assert 'encoder.BatchNorm_0' in str(error.value)


@pytest.mark.parametrize('shard_state', [False, True])
def test_init_from_a_run_without_a_target(
    shard_state, tiny_config, tiny_encoder, tmp_path, monkeypatch):
  """Its online network is both, as arrays of their own."""
  monkeypatch.setattr(sharding, '_FEW', 64)
  monkeypatch.setattr(sharding, '_TILE_ROWS', 1)
  config = tiny_config
  config.total_steps, config.warmup_steps = 2, 1
  config.target = 'stop_gradient'
  source = _pretrain(config, tmp_path / 'a', tiny_encoder)
  assert not source.target_params
  config.target, config.init_from = 'ema', str(tmp_path / 'a')
  config.shard_state, config.base_tau = shard_state, 1.0
  state = _pretrain(config, tmp_path / 'b', tiny_encoder)
  _assert_equal(state.target_params, state_lib.target_parts(
      source.online_params))


def test_init_from(tiny_config, tiny_encoder, tmp_path):
  """Weights come over; step, optimizer and probe start anew."""
  config = tiny_config
  source = _pretrain(config, tmp_path / 'a', tiny_encoder)
  config.init_from = str(tmp_path / 'a')
  setup = setup_lib.set_up(config, tiny_encoder)
  state = saved_run.load_weights(setup.create_state(), config, tiny_encoder)
  assert int(state.step) == 0
  _assert_equal(state.target_params, source.target_params)
  _assert_equal(state.online_batch_stats, source.online_batch_stats)
  for part in ('encoder', 'projector', 'predictor'):
    _assert_equal(state.online_params[part], source.online_params[part])
  fresh = setup.create_state().online_params['probe']
  _assert_equal(state.online_params['probe'], fresh)
  config.target = 'stop_gradient'
  without_target = setup_lib.set_up(config, tiny_encoder)
  assert not saved_run.load_weights(
      without_target.create_state(), config, tiny_encoder).target_params
  # Parameters of the same shapes, which would mean something else.
  config.projector_norm = 'layer'
  with pytest.raises(config_lib.ConfigError, match='trained with batch'):
    loop.pretrain(config, str(tmp_path / 'b'), tiny_encoder)
  config.projector_norm = 'batch_local'
  config.norm_epsilon = 1e-3
  with pytest.raises(
      config_lib.ConfigError, match='norm_epsilon is 0.001, .* with 1e-05'):
    loop.pretrain(config, str(tmp_path / 'b'), tiny_encoder)
  config.norm_epsilon = 1e-5
  config.projector.output_size = 4
  with pytest.raises(config_lib.ConfigError, match='another network'):
    loop.pretrain(config, str(tmp_path / 'b'), tiny_encoder)


def _poison(monkeypatch, is_bad):
  """Makes the loss NaN on batches for which `is_bad(state, batch)`."""
  make_train_step = step_lib.make_train_step

  def make_poisoned(*args, **kwargs):
    train_step = make_train_step(*args, **kwargs)

    def poisoned(state, batch):
      bad = is_bad(state, batch)
      state, metrics = train_step(state, batch)
      spoil = lambda x: jnp.where(bad, jnp.full_like(x, jnp.nan), x)
      return state.replace(
          online_params=jax.tree.map(spoil, state.online_params)
      ), metrics | {'train/loss': spoil(metrics['train/loss'])}

    return poisoned

  monkeypatch.setattr(step_lib, 'make_train_step', make_poisoned)


def test_not_finite_stops_the_run(
    tiny_config, tiny_encoder, tmp_path, monkeypatch):
  """It says which metric, step and examples; the last checkpoint stays."""
  _poison(monkeypatch, lambda state, _: state.step == 5)
  with pytest.raises(FloatingPointError) as error:
    loop.pretrain(tiny_config, str(tmp_path), tiny_encoder)
  assert 'train/loss' in str(error.value)
  assert 'in step 6, on examples ' in str(error.value)
  assert 'checkpoint of step 4 is kept' in str(error.value)
  assert '--config.on_nonfinite=rewind' in str(error.value)
  assert _rows(tmp_path)[-1]['train/loss'] == 'nan'
  assert int(_state(tmp_path, tiny_encoder).step) == 4
  found = json.loads((tmp_path / 'nonfinite' / 'step_6.json').read_text())
  setup = setup_lib.set_up(tiny_config, tiny_encoder)
  batch = jax.device_get(next(setup.create_batches(5)))
  assert found['example_ids'] == batch['index'].ravel().tolist()
  assert found['metrics']['train/loss'] == 'nan'


def _bad_example(config, encoder):
  """An example of the batch of step 5 that no other batch has."""
  batches = setup_lib.set_up(config, encoder).create_batches(0)
  batches = [set(batch['index'].ravel().tolist()) for batch in batches]
  return min(batches.pop(5) - set().union(*batches[:4], *batches[4:]))


def test_rewinding_leaves_out_the_batch_and_nothing_else(
    tiny_config, tiny_encoder, tmp_path, monkeypatch):
  """As a run whose order never had the batch; also when it is resumed."""
  config = tiny_config
  config.data = 'fake:4096'  # no example twice
  bad = _bad_example(config, tiny_encoder)
  make_note = resume.first_note
  with monkeypatch.context() as patch:
    patch.setattr(
        resume, 'first_note', lambda setup: make_note(setup) | {
            'skipped_batches': [5]})
    expected = _pretrain(config, tmp_path / 'without', tiny_encoder)
  _poison(monkeypatch, lambda _, batch: lax.psum(
      (batch['index'] == bad).sum(), devices.AXIS_NAME) > 0)
  config.on_nonfinite = 'rewind'
  setup = setup_lib.set_up(config, tiny_encoder)
  monkeypatch.setattr(setup_lib, 'set_up', lambda *_: setup)
  for name, step in (('whole', None), ('killed', 6)):
    if step:
      with monkeypatch.context() as patch:
        _killed_at(patch, step)
        with pytest.raises(_Killed):
          _pretrain(config, tmp_path / name, tiny_encoder)
    _assert_equal(expected, _pretrain(config, tmp_path / name, tiny_encoder))
    assert _without_clock(tmp_path / name) == _without_clock(
        tmp_path / 'without')


def test_a_resumed_run_goes_on_counting_what_cannot_be_read(
    tiny_config, tiny_encoder, tmp_path, monkeypatch):
  """Also what can be read again by then."""
  config = tiny_config
  config.data, config.test_split = f'folder:{tmp_path}/images', ''
  config.cache_bytes, config.max_bad_image_share = 0, 0.1
  folder = tmp_path / 'images' / 'train' / 'a'
  folder.mkdir(parents=True)
  for n in range(64):
    Image.new('RGB', (8, 8), (n, n, n)).save(folder / f'{n:02}.png')
  set_up = setup_lib.set_up

  def lose(name):
    def set_up_and_lose(*args):
      setup = set_up(*args)
      (folder / name).rename(tmp_path / name)
      return setup
    monkeypatch.setattr(setup_lib, 'set_up', set_up_and_lose)

  lose('07.png')
  with monkeypatch.context() as patch:
    _killed_at(patch, 6)
    with pytest.raises(_Killed):
      _pretrain(config, tmp_path / 'run', tiny_encoder)
  (tmp_path / '07.png').rename(folder / '07.png')
  lose('09.png')
  _pretrain(config, tmp_path / 'run', tiny_encoder)
  counts = [row['data/unreadable_images'] for row in _rows(tmp_path / 'run')
            if 'train/loss' in row and row['step'] >= 4]
  assert counts[0] == 1 and counts[-1] == 2


@pytest.mark.usefixtures('_set_up_once')
def test_rewinding_ends_after_a_stated_number(
    tiny_config, tiny_encoder, tmp_path, monkeypatch, capsys):
  _poison(monkeypatch, lambda state, _: state.step == 5)
  tiny_config.on_nonfinite, tiny_config.max_rewinds = 'rewind', 2
  with pytest.raises(FloatingPointError, match='after 2 rewinds; the check'):
    loop.pretrain(tiny_config, str(tmp_path), tiny_encoder)
  output = capsys.readouterr().out
  assert 'going back to step 4 to leave that batch out, rewind 2 of' in output


def _asked_at(monkeypatch, step):
  """As if a signal had come while the batch of `step` was taken."""
  prefetch = devices.prefetch

  def asking(batches, size=2):
    for n, batch in enumerate(prefetch(batches, size)):
      if n == step:
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch

  monkeypatch.setattr(devices, 'prefetch', asking)


@pytest.mark.usefixtures('_set_up_once')
def test_a_signal_saves_this_very_step_and_the_run_goes_on(
    tiny_config, tiny_encoder, tmp_path, monkeypatch):
  """Bit for bit, without an evaluation less, where one was due just then."""
  expected = _pretrain(tiny_config, tmp_path / 'whole', tiny_encoder)
  for step in (1, 1):  # after the second step, and after the fourth
    with monkeypatch.context() as patch:
      _asked_at(patch, step)
      with pytest.raises(stopping.Preempted, match='stopped after step .*saved'
                         ) as error:
        _pretrain(tiny_config, tmp_path / 'stopped', tiny_encoder)
    assert error.value.code == 75
  checkpoints = tmp_path / 'stopped' / 'checkpoints'
  assert sorted(path.name for path in checkpoints.iterdir()) == ['2', '4']
  assert 'knn/test_top1' not in _rows(tmp_path / 'stopped')[-1]
  state = _pretrain(tiny_config, tmp_path / 'stopped', tiny_encoder)
  _assert_equal(expected, state)
  assert _without_clock(tmp_path / 'stopped') == _without_clock(
      tmp_path / 'whole')


@pytest.mark.usefixtures('_set_up_once')
def test_a_signal_in_an_evaluation_is_obeyed_in_it(
    tiny_config, tiny_encoder, tmp_path, monkeypatch):
  """It is left off, and made when the run goes on."""
  expected = _pretrain(tiny_config, tmp_path / 'whole', tiny_encoder)
  run = knn.run
  with monkeypatch.context() as patch:
    patch.setattr(
        features, 'online_variables', lambda state: (
            os.kill(os.getpid(), signal.SIGINT),
            {'params': state.online_params,
             'batch_stats': state.online_batch_stats})[1])
    patch.setattr(knn, 'run', lambda *_, **__: pytest.fail('to its end'))
    with pytest.raises(stopping.Preempted, match='after step 4, saved'):
      _pretrain(tiny_config, tmp_path / 'stopped', tiny_encoder)
  assert knn.run is run
  _assert_equal(
      expected, _pretrain(tiny_config, tmp_path / 'stopped', tiny_encoder))
  assert _without_clock(tmp_path / 'stopped') == _without_clock(
      tmp_path / 'whole')


def test_a_signal_before_the_first_step_leaves_at_once(
    tiny_config, tiny_encoder, tmp_path, monkeypatch):
  _asked_at(monkeypatch, 0)
  with pytest.raises(stopping.Preempted, match='nothing to save'):
    loop.pretrain(tiny_config, str(tmp_path), tiny_encoder)
  assert not list((tmp_path / 'checkpoints').iterdir())


def test_a_workdir_is_for_one_run_at_a_time(
    tiny_config, tiny_encoder, tmp_path):
  with locks.hold(tmp_path / '.lock', 'it'):
    with pytest.raises(config_lib.ConfigError, match='another job works on'):
      loop.pretrain(tiny_config, str(tmp_path), tiny_encoder)
  assert not (tmp_path / 'checkpoints').exists()


def test_it_learns(tiny_config, tiny_encoder, tmp_path):
  """On two kinds of pictures the loss falls and the probe tells them apart."""
  rng = np.random.default_rng(0)
  label = np.arange(96, dtype=np.int32) % 2
  stripes = np.zeros((96, 8, 8, 3))
  stripes[label == 0, ::2] = 200
  stripes[label == 1, :, ::2] = 200
  images = stripes + rng.integers(0, 56, stripes.shape)
  images = images.astype(np.uint8)
  np.savez(
      tmp_path / 'stripes.npz', train_image=images[:64],
      train_label=label[:64], test_image=images[64:], test_label=label[64:])
  config = tiny_config
  config.data = f'arrays:{tmp_path}/stripes.npz'
  for view in (config.augment.view1, config.augment.view2):
    view.crop_area_range = (0.5, 1.0)
    view.flip_prob = view.blur_prob = view.solarize_prob = 0.0
  config.optimizer, config.base_learning_rate = 'sgd', 2.0
  config.total_steps = config.evaluate_every_steps = 120
  config.checkpoint_every_steps = 120
  config.log_every_steps = 1
  _pretrain(config, tmp_path / 'run', tiny_encoder)
  rows = _rows(tmp_path / 'run')
  losses = [r['train/loss'] for r in rows if 'train/loss' in r]
  assert np.mean(losses[-3:]) < 0.6 * losses[0]
  final = next(r for r in rows if 'online_probe/test_top1' in r)
  assert final['online_probe/test_top1'] > 0.8
  assert final['knn/test_top1'] > 0.8


@pytest.mark.with_report
def test_examples_of_several_labels_each(
    tiny_config, tiny_encoder, tmp_path, capsys):
  """There is no probe and no kNN; the last evaluation learns from the labels.
  """
  rng = np.random.default_rng(0)
  label = rng.integers(0, 2, (64, 3), np.int32)
  images = rng.integers(0, 120, (64, 8, 8, 3), np.uint8)
  images += (120 * label[:, None, None]).astype(np.uint8)
  np.savez(
      tmp_path / 'colours.npz', train_image=images[:40],
      train_label=label[:40], test_image=images[40:], test_label=label[40:])
  config = tiny_config
  config.data = f'arrays:{tmp_path}/colours.npz'
  config.metric, config.final_protocols = 'map', ('logistic',)
  config.logistic.update(num_values=2, held_out_share=0.2)
  config.total_steps = config.evaluate_every_steps = 2
  state = _pretrain(config, tmp_path / 'run', tiny_encoder)
  assert 'probe' not in state.online_params
  assert 'several an image, so the online probe' in capsys.readouterr().out
  names = set().union(*_rows(tmp_path / 'run'))
  assert any(name.startswith('diagnostics/') for name in names)
  assert not any('probe' in name or 'knn' in name for name in names)
  made = json.loads(
      (tmp_path / 'run/evaluations/logistic-colours.json').read_text())
  assert made['headline'] == 'logistic/test_map'

"""Fits of an encoder and a head: the update, freezing, resuming."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax.evaluation import finetuning
from byol_jax.networks import transfer
from byol_jax.training import devices

_STEPS = 6


class _Encoder(nn.Module):
  """A convolution and batch statistics."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, *, train=False):
    x = nn.Conv(8, (3, 3), name='conv')(x)
    x = nn.BatchNorm(
        use_running_average=not train, momentum=0.9, name='norm',
        axis_name=self.axis_name)(x)
    return nn.relu(x).mean(axis=(1, 2))


def _loss(outputs, batch):
  losses = optax.softmax_cross_entropy_with_integer_labels(
      outputs, batch['label'])
  return jnp.sum(losses * batch['weight']), jnp.sum(batch['weight'])


def _task(freeze_encoder=False, axis_name=devices.AXIS_NAME):
  return finetuning.Task(transfer.Transfer(
      encoder=_Encoder(axis_name), head=nn.Dense(3), mean=(0.5,) * 3,
      std=(0.2,) * 3, freeze_encoder=freeze_encoder, axis_name=axis_name),
      _loss)


def _batch(step):
  rng = np.random.default_rng(step)
  label = rng.integers(0, 3, 16).astype(np.int32)
  image = rng.uniform(size=(16, 8, 8, 3)) * 0.5 + 0.2 * label[
      :, None, None, None]
  # Devices count unlike numbers of examples.
  weight = (np.arange(16) % 7 != 0).astype(np.float32)
  return {'image': image.astype(np.float32), 'label': label, 'weight': weight}


def _batches(first):
  return (_batch(step) for step in range(first, _STEPS))


def _make_optimizer(settings):
  return finetuning.sgd(
      settings, schedule=lambda step: 1 - step / _STEPS, momentum=0.9)


@pytest.fixture(scope='module')
def variables():
  task = _task()
  found = finetuning.initialize(
      task, jax.random.key(0), _batch(0)['image'], {})
  other = finetuning.initialize(
      task, jax.random.key(1), _batch(0)['image'],
      {'params': {'encoder': found['params']['encoder'], 'predictor': {}},
       'batch_stats': found['batch_stats']})
  for part, same in (('encoder', True), ('head', False)):
    kernels = [jax.tree.leaves(v['params'][part])[-1] for v in (found, other)]
    assert bool(jnp.all(kernels[0] == kernels[1])) is same
  return found


def test_of_a_given_encoder_nothing_is_made(variables, monkeypatch):
  made = []

  def noting(fn):
    def call(*args):
      made.append(jax.jit(fn)(*args))
      return made[-1]
    return call

  monkeypatch.setattr(finetuning.platforms, 'jit_to_run_once', noting)
  found = finetuning.initialize(
      _task(), jax.random.key(1), _batch(0)['image'], variables)
  assert set(found['params']) == {'encoder', 'head'}
  (new,) = made
  assert set(new['params']) == {'head'} and 'encoder' not in new['batch_stats']


@pytest.fixture(scope='module')
def trainer():
  return finetuning.Trainer(_task(), _make_optimizer)


def _fit(trainer, variables, settings=None, **options):
  return trainer.fit(
      variables, options.pop('batches', _batches), total_steps=_STEPS,
      settings=settings or {'learning_rate': 0.1, 'weight_decay': 0.01},
      what='test', **options)


def _reference(variables):
  """SGD with Nesterov momentum on the whole batch, on one device."""
  module = _task(axis_name=None).module
  params, stats = variables['params'], variables['batch_stats']
  trace = jax.tree.map(jnp.zeros_like, params)
  for step in range(_STEPS):
    batch = _batch(step)

    def loss_fn(params, batch=batch, stats=stats):
      outputs, updated = module.apply(
          {'params': params, 'batch_stats': stats}, batch['image'],
          train=True, mutable=['batch_stats'])
      total, count = _loss(outputs, batch)
      return total / count, updated['batch_stats']

    grads, stats = jax.grad(loss_fn, has_aux=True)(params)
    grads = jax.tree.map(lambda g, p: g + 0.01 * p, grads, params)
    trace = jax.tree.map(lambda t, g: g + 0.9 * t, trace, grads)
    rate = 0.1 * (1 - step / _STEPS)
    params = jax.tree.map(
        lambda p, g, t, rate=rate: p - rate * (g + 0.9 * t),
        params, grads, trace)
  return {'params': params, 'batch_stats': stats}


def _assert_close(got, want, **tolerances):
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, **tolerances), got, want)


def test_four_devices_take_the_steps_of_one(trainer, variables):
  got = _fit(trainer, variables)
  _assert_close(got, _reference(variables), rtol=1e-4, atol=1e-5)


def test_settings_are_each_fits_own(variables):
  """One program, and nothing of one fit in the next."""
  task, traces = _task(), []
  trainer = finetuning.Trainer(finetuning.Task(
      task.module, lambda *args: traces.append(args) or _loss(*args)),
      _make_optimizer)
  first = _fit(trainer, variables)
  count = len(traces)
  still = _fit(trainer, variables, {'learning_rate': 0.0, 'weight_decay': 0.0})
  _assert_close(still['params'], variables['params'], rtol=0)
  _assert_close(_fit(trainer, variables), first, rtol=0)
  assert len(traces) == count


def test_a_frozen_encoder_stays(variables):
  trainer = finetuning.Trainer(_task(freeze_encoder=True), _make_optimizer)
  got = _fit(trainer, variables)
  for name in ('params', 'batch_stats'):
    _assert_close(got[name]['encoder'], variables[name]['encoder'], rtol=0)
  assert np.abs(
      got['params']['head']['kernel']
      - variables['params']['head']['kernel']).max() > 1e-3


class _Killed(BaseException):
  pass


def test_a_fit_cut_short_goes_on_bit_for_bit(trainer, variables, tmp_path):
  def cut(first):
    for step, batch in enumerate(_batches(first), start=first):
      if step == 5:
        raise _Killed
      yield batch

  options = dict(directory=str(tmp_path), save_every_steps=2)
  with pytest.raises(_Killed):
    _fit(trainer, variables, batches=cut, **options)
  started = []
  got = _fit(trainer, variables, **options, batches=lambda first: (
      started.append(first) or _batches(first)))
  assert started == [2]
  _assert_close(got, _fit(trainer, variables), rtol=0)

"""An exported encoder: names, numbers, and what is refused.

The numbers are held to a NumPy forward pass written from torchvision's ResNet,
which reads the state dict by torchvision's names; and, where they are
installed, to torchvision and timm themselves.
"""

import functools
import json
import os
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.interchange import pretrained
from byol_jax.interchange import torch_folder
from byol_jax.interchange import torch_layout
from byol_jax.networks import network as network_lib
from byol_jax.networks import resnet
from byol_jax.training import checkpoint
from byol_jax.training import optimizers
from byol_jax.training import state as state_lib

# An odd side is where paddings would differ. Both leave the last group more
# than one position, which is all that instance norm could make of one.
_SIZES = ((64, 64), (33, 72))


def _config(encoder='resnet10', norm='batch', **settings):
  config = config_lib.get_base_config()
  config.encoder, config.encoder_norm = encoder, norm
  config.resnet.update(settings)
  config.norm_epsilon, config.norm_groups = 1e-3, 8
  config.projector.depth = config.predictor.depth = 0
  config.image_size = 32
  return config


def _shapes(config):
  """The network, and the shapes of its encoder's variables."""
  network = network_lib.create_network(config, None)
  shape = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  return network, jax.eval_shape(
      functools.partial(network.init, method='encode'), jax.random.key(0),
      shape)


def _network(config, fill):
  """The same, where every number is its own noise."""
  network, shapes = _shapes(config)
  return network, fill(shapes)


def _pretrained(config, network, variables):
  return pretrained.Pretrained(
      config, network, variables, step=3, image_size=config.image_size)


def _images(size):
  return np.random.default_rng(1).uniform(size=(2, *size, 3)).astype('f4')


def _embed(network, variables, images):
  return np.asarray(jax.jit(functools.partial(
      network.apply, method='encode'))(variables, images))


def _assert_equal_embeddings(got, expected):
  """To 3e-5 of the largest number, and not because all are alike."""
  assert got.shape == expected.shape
  assert np.std(expected, axis=0).max() > 1e-3
  np.testing.assert_allclose(
      got, expected, rtol=0, atol=3e-5 * np.abs(expected).max())


# torchvision's forward pass, written anew in NumPy: NCHW, float64.


def _windows(x, kernel, stride, padding, fill):
  pad = ((0, 0), (0, 0), (padding, padding), (padding, padding))
  return np.lib.stride_tricks.sliding_window_view(
      np.pad(x, pad, constant_values=fill), (kernel, kernel), (2, 3)
  )[:, :, ::stride, ::stride]


def _conv(weights, name, x, stride):
  kernel = weights[f'{name}.weight']
  size = kernel.shape[2]
  windows = _windows(x, size, stride, size // 2, 0.0)
  return np.tensordot(windows, kernel, ((1, 4, 5), (1, 2, 3))).transpose(
      0, 3, 1, 2)


def _norm(weights, name, x, *, groups, epsilon):
  """BatchNorm2d if there are statistics, else GroupNorm, else Identity."""
  if f'{name}.weight' not in weights:
    return x
  scale, bias = (
      weights[f'{name}.{leaf}'][:, None, None] for leaf in ('weight', 'bias'))
  if f'{name}.running_mean' in weights:
    mean, variance = (
        weights[f'{name}.running_{leaf}'][:, None, None]
        for leaf in ('mean', 'var'))
    return (x - mean) / np.sqrt(variance + epsilon) * scale + bias
  grouped = x.reshape(x.shape[0], groups or x.shape[1], -1)
  grouped = grouped - grouped.mean(-1, keepdims=True)
  grouped /= np.sqrt((grouped**2).mean(-1, keepdims=True) + epsilon)
  return grouped.reshape(x.shape) * scale + bias


def _block(weights, prefix, x, stride, norm):
  names = [i for i in (1, 2, 3) if f'{prefix}.conv{i}.weight' in weights]
  strided = names[-2]  # of a Bottleneck the second, of a BasicBlock the first
  shortcut = x
  if f'{prefix}.downsample.0.weight' in weights:
    shortcut = norm(f'{prefix}.downsample.1', _conv(
        weights, f'{prefix}.downsample.0', x, stride))
  for i in names:
    x = _conv(weights, f'{prefix}.conv{i}', x, stride if i == strided else 1)
    x = norm(f'{prefix}.bn{i}', x)
    if i != names[-1]:
      x = np.maximum(x, 0)
  return np.maximum(x + shortcut, 0)


def _torchvision(weights, config, images):
  """Embeddings of images f32[B, H, W, 3] in [0, 1]."""
  weights = {name: array.astype('f8') for name, array in weights.items()}
  norm = functools.partial(
      _norm, weights, groups={
          'group_ws': config.norm_groups, 'layer': 1}.get(config.encoder_norm),
      epsilon=(1e-5 if config.encoder_norm == 'affine_init'
               else config.norm_epsilon))
  x = (images - np.array(config.augment.mean)) / np.array(config.augment.std)
  x = x.transpose(0, 3, 1, 2)
  stride = {'imagenet': 2, 'cifar': 1, 'stride2': 2}[config.resnet.stem]
  x = np.maximum(norm('bn1', _conv(weights, 'conv1', x, stride)), 0)
  if config.resnet.stem == 'imagenet':
    x = _windows(x, 3, 2, 1, -np.inf).max((4, 5))
  for layer in range(1, 5):
    block = 0
    while f'layer{layer}.{block}.conv1.weight' in weights:
      stride = 2 if layer > 1 and block == 0 else 1
      x = _block(weights, f'layer{layer}.{block}', x, stride, norm)
      block += 1
  return x.mean((2, 3))


_AFFINE = {'weight', 'bias'}
_STATISTICS = {'running_mean', 'running_var', 'num_batches_tracked'}


@pytest.mark.parametrize('encoder, norm, settings, size, leaves', [
    ('resnet50', 'batch', {}, (33, 36), _AFFINE | _STATISTICS),
    ('resnet10', 'group_ws', {'stem': 'stride2'}, (33, 36), _AFFINE),
    pytest.param(
        'resnet50', 'layer', {'projection_shortcut': 'group'}, (33, 36),
        _AFFINE,
        marks=pytest.mark.slow),
    ('resnet10', 'instance', {}, (64, 36), _AFFINE),
    ('resnet10', 'affine_init', {'stem': 'cifar'}, (17, 12),
     _AFFINE | _STATISTICS),
    ('resnet10', 'none', {}, (33, 36), set())])
def test_embeddings_as_torchvision_computes_them(
    encoder, norm, settings, size, leaves, fill):
  config = _config(encoder, norm, **settings)
  with mock.patch.dict(resnet.BOTTLENECK_DEPTHS, {50: (1, 1, 1, 1)}):
    network, variables = _network(config, fill)
    weights = torch_layout.state_dict(config, variables)
    assert {n[4:] for n in weights if n.startswith('bn1.')} == leaves
    _assert_equal_embeddings(
        _torchvision(weights, config, _images(size)),
        _embed(network, variables, _images(size)))


def _torchvision_shapes(block_convs, expansion, blocks):
  """Names and shapes by the rule of torchvision's `_make_layer`."""
  shapes = {'conv1.weight': (64, 3, 7, 7)}

  def add_norm(name, channels):
    shapes[f'{name}.num_batches_tracked'] = ()
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{name}.{leaf}'] = (channels,)

  add_norm('bn1', 64)
  inputs = 64
  for layer, count in enumerate(blocks, start=1):
    planes = 32 * 2**layer
    for block in range(count):
      prefix, channels = f'layer{layer}.{block}', inputs
      for i, (size, factor) in enumerate(block_convs, start=1):
        shapes[f'{prefix}.conv{i}.weight'] = (
            planes * factor, channels, size, size)
        channels = planes * factor
        add_norm(f'{prefix}.bn{i}', channels)
      if block == 0 and (layer > 1 or inputs != planes * expansion):
        shapes[f'{prefix}.downsample.0.weight'] = (
            planes * expansion, inputs, 1, 1)
        add_norm(f'{prefix}.downsample.1', planes * expansion)
      inputs = planes * expansion
  return shapes


@pytest.mark.parametrize('encoder, convs, expansion, blocks, count', [
    ('resnet18', ((3, 1), (3, 1)), 1, (2, 2, 2, 2), 120),
    ('resnet50', ((1, 1), (3, 1), (1, 4)), 4, (3, 4, 6, 3), 318)])
def test_names_and_shapes_are_those_of_torchvision(
    encoder, convs, expansion, blocks, count):
  config = _config(encoder)
  arrays = torch_layout.state_dict(config, jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), _shapes(config)[1]))
  expected = _torchvision_shapes(convs, expansion, blocks)
  assert len(expected) == count  # torchvision's own, without fc
  assert {name: a.shape for name, a in arrays.items()} == expected
  assert torch_layout.embedding_size(config) == 512 * expansion
  assert {a.dtype for n, a in arrays.items() if 'batches' not in n} == {
      np.dtype('f4')}


@pytest.mark.parametrize('norm, expected', [
    ('batch', mock.call.nn.BatchNorm2d(64, eps=1e-3, momentum=0.1)),
    ('batch_local', mock.call.nn.BatchNorm2d(64, eps=1e-3, momentum=0.1)),
    ('group_ws', mock.call.nn.GroupNorm(8, 64, eps=1e-3)),
    ('layer', mock.call.nn.GroupNorm(1, 64, eps=1e-3)),
    ('instance', mock.call.nn.GroupNorm(64, 64, eps=1e-3)),
    # The exported variance is one less this epsilon.
    ('affine_init', mock.call.nn.BatchNorm2d(64, eps=1e-5)),
    ('none', mock.call.nn.Identity(64))])
def test_the_layer_that_torchvision_is_given(norm, expected):
  torch = mock.Mock()
  scope = {'torch': torch, 'functools': functools}
  eval(torch_layout.norm_layer(_config(norm=norm)), scope)(64)  # noqa: S307
  assert torch.mock_calls == [expected]


def test_kernels_are_folded_as_standardised():
  raw = np.random.default_rng(0).normal(1, 3, (7, 7, 3, 64)).astype('f4')
  got = torch_layout.state_dict(_config(norm='group_ws'), {
      'params': {'encoder': {'stem_conv': {'kernel': raw}}}})
  expected = (raw - raw.mean((0, 1, 2))) / raw.std((0, 1, 2))
  np.testing.assert_allclose(
      got['conv1.weight'], expected.transpose(3, 2, 0, 1), rtol=1e-4,
      atol=1e-5)


@pytest.mark.parametrize('encoder, settings, message', [
    ('resnet18', dict(padding='same'), "padding is 'same'.*expected torch"),
    ('resnet34', dict(projection_shortcut='group'), 'expected shape'),
    ('resnet50', dict(width=2.0), 'width is 2.*expected 1'),
    ('resnet50', dict(width=0.5), 'width is 0.5'),
    ('MyEncoder', {}, "'MyEncoder', a module of your own; .* resnet10"),
])
def test_what_torchvision_lacks_is_refused(
    encoder, settings, message, tmp_path):
  config = _config(encoder, **settings)
  encoder = _pretrained(config, None, {})
  with pytest.raises(config_lib.ConfigError, match=message) as error:
    torch_folder.check(encoder)
  assert len(str(error.value).splitlines()) == 1
  assert 'formats flax, stablehlo, savedmodel and onnx can' in str(error.value)
  with pytest.raises(config_lib.ConfigError, match=message):
    torch_folder.write(tmp_path, encoder)
  assert not list(tmp_path.iterdir())


def _save_workdir(workdir, config, fill):
  """A finished checkpoint of step 7; returns its online variables."""
  network = network_lib.create_network(config, None)
  tx = optimizers.create_optimizer(config, lambda _: 0.0)
  state = jax.eval_shape(
      lambda: state_lib.create_train_state(network, tx, config))
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state).replace(
      step=np.int32(7), **{
          field: fill(getattr(state, field))
          for field in ('online_params', 'online_batch_stats')})
  checkpoints = checkpoint.Checkpoints(str(workdir))
  checkpoints.save(7, jax.tree.map(jnp.asarray, state), {
      'config': config_lib.to_dict(config), 'num_classes': None,
      'custom_encoder': None})
  checkpoints.close()
  return {'params': state.online_params,
          'batch_stats': state.online_batch_stats}


def _export(*arguments, before='pass'):
  program = (
      f'import runpy; {before}; '
      'runpy.run_module("byol_jax.export", run_name="__main__")')
  return subprocess.run(
      [sys.executable, '-c', program, *arguments],
      capture_output=True, text=True, check=False,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'})


def test_the_job(tmp_path, fill):
  config = _config()
  config.target, config.optimizer = 'stop_gradient', 'sgd'
  variables = _save_workdir(tmp_path / 'run', config, fill)
  done = _export(
      f'--checkpoint={tmp_path}/run', '--format=torch',
      f'--output={tmp_path}/a/b')
  assert done.returncode == 0, done.stderr
  folder = tmp_path / 'a' / 'b'
  assert str(folder) in done.stdout
  arrays = safetensors.numpy.load_file(folder / torch_folder.WEIGHTS)
  expected = torch_layout.state_dict(config, variables)
  assert set(arrays) == set(expected)
  for name, array in expected.items():
    np.testing.assert_array_equal(arrays[name], array)
  facts = json.loads((folder / 'config.json').read_text())
  assert facts['num_features'] == 512
  assert facts['pretrained_cfg']['input_size'] == [3, 32, 32]
  assert facts['pretrained_cfg']['mean'] == [0.485, 0.456, 0.406]
  assert facts['run']['step'] == 7
  assert facts['run']['config'] == config_lib.to_dict(config)


def test_what_does_not_agree_is_not_left_behind(tmp_path, fill):
  config = _config()
  config.update(target='stop_gradient', optimizer='sgd', encoder='resnet10')
  _save_workdir(tmp_path / 'run', config, fill)
  done = _export(
      f'--checkpoint={tmp_path}/run', '--format=stablehlo',
      f'--output={tmp_path}/made', before=(
          'from byol_jax.interchange import portable; portable.TOLERANCE = -1'))
  assert done.returncode == 1
  assert 'do not use it' in done.stderr.splitlines()[-1]
  assert [path.name for path in tmp_path.iterdir()] == ['run']


@pytest.mark.parametrize('encoder, norm, epsilon, settings, name', [
    ('resnet18', 'batch', 1e-5, {}, 'resnet18'),
    ('resnet200', 'batch_local', 1e-5, {}, 'resnet200'),
    ('resnet50', 'affine_init', 1e-3, {}, 'resnet50'),
    ('resnet50', 'batch', 1e-3, {}, 'byol_jax_resnet50'),
    ('resnet50', 'layer', 1e-5, {}, 'byol_jax_resnet50'),
    ('resnet18', 'batch', 1e-5, {'stem': 'cifar'}, 'byol_jax_resnet18'),
    ('resnet10', 'batch', 1e-5, {}, 'byol_jax_resnet10')])
def test_timm_is_given_no_name_of_another_model(
    encoder, norm, epsilon, settings, name):
  config = _config(encoder, norm, **settings)
  config.norm_epsilon = epsilon
  facts = torch_folder.describe(_pretrained(config, None, {'params': {}}))
  assert facts['architecture'] == name


@pytest.mark.parametrize('arguments, message', [
    (('--output=x', '--checkpoint=/nowhere'), 'no checkpoint in /nowhere'),
    (('--output=x', '--checkpoint=y', '--format=caffe'), 'onnx'),
    (('--checkpoint=y',), 'output'),
])
def test_slips_of_the_job_end_in_one_line(arguments, message):
  done = _export(*arguments)
  assert done.returncode == 1
  (line,) = done.stderr.strip().splitlines()
  assert message in line


# Against the real libraries, where they are installed.


def _run_readme(folder, monkeypatch):
  """What the README's code defines, run as a user would."""
  monkeypatch.chdir(folder)
  code = (folder / 'README.md').read_text().split('```python\n')[1]
  scope = {}
  exec(code.split('```')[0], scope)  # noqa: S102
  return scope


@pytest.mark.parametrize('encoder, norm, settings', [
    *(('resnet10', norm, {}) for norm in config_rules.NORMS),
    ('resnet10', 'batch', {'stem': 'cifar'}),
    ('resnet10', 'group_ws', {'stem': 'stride2'}),
    ('resnet50', 'batch', {}),
    pytest.param('resnet50', 'instance', {}, marks=pytest.mark.slow)])
def test_readme_gives_the_same_embeddings_in_torchvision(
    encoder, norm, settings, tmp_path, monkeypatch, fill):
  torch = pytest.importorskip('torch')
  pytest.importorskip('torchvision')
  with mock.patch.dict(resnet.BOTTLENECK_DEPTHS, {50: (1, 1, 1, 1)}):
    config = _config(encoder, norm, **settings)
    network, variables = _network(config, fill)
    torch_folder.write(tmp_path, _pretrained(config, network, variables))
    scope = _run_readme(tmp_path, monkeypatch)
    for size in _SIZES if norm == 'batch' else _SIZES[1:]:
      images = _images(size)
      got = scope['encode'](
          torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
      _assert_equal_embeddings(
          got.numpy(), _embed(network, variables, images))


def _with_probe(variables, embedding_size, num_classes=7):
  rng = np.random.default_rng(2)
  return variables | {'params': variables['params'] | {'probe': {
      'kernel': rng.normal(
          0, embedding_size**-0.5, (embedding_size, num_classes)).astype('f4'),
      'bias': rng.normal(size=num_classes).astype('f4')}}}


def _logits(variables, embedding):
  probe = variables['params']['probe']
  return embedding @ probe['kernel'] + probe['bias']


def _channels_first(torch, images):
  return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def test_logits_of_the_online_probe(tmp_path, monkeypatch, fill):
  torch = pytest.importorskip('torch')
  timm = pytest.importorskip('timm')
  config = _config('resnet18')
  config.norm_epsilon = 1e-5  # that of timm's models
  network, variables = _network(config, fill)
  variables = _with_probe(variables, 512)
  torch_folder.write(tmp_path, _pretrained(config, network, variables))
  images = _images((33, 72))
  embedding = _embed(network, variables, images)
  scope = _run_readme(tmp_path, monkeypatch)
  x = _channels_first(torch, images)
  _assert_equal_embeddings(scope['encode'](x).numpy(), embedding)
  _assert_equal_embeddings(
      scope['classify'](x).numpy(), _logits(variables, embedding))
  model = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
  with torch.no_grad():
    got = model((x - scope['mean']) / scope['std'])
  _assert_equal_embeddings(got.numpy(), _logits(variables, embedding))


@pytest.mark.parametrize('norm', ['batch', 'affine_init'])
def test_timm_reads_the_folder(norm, tmp_path, fill):
  torch = pytest.importorskip('torch')
  timm = pytest.importorskip('timm')
  config = _config('resnet18', norm)
  config.norm_epsilon = 1e-5  # that of timm's models
  config.augment.mean, config.augment.std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
  config.test_crop_ratio = 0.9
  network, variables = _network(config, fill)
  torch_folder.write(tmp_path, _pretrained(config, network, variables))
  model = timm.create_model(
      f'local-dir:{tmp_path}', pretrained=True, num_classes=0).eval()
  data = timm.data.resolve_data_config({}, model=model)
  assert tuple(data['mean']) == (0.4, 0.5, 0.6)
  assert tuple(data['std']) == (0.2, 0.25, 0.3)
  assert list(data['input_size']) == [3, 32, 32]
  assert (data['crop_pct'], data['crop_mode']) == (0.9, 'center')
  assert model.global_pool.pool_type == 'avg'
  for size in _SIZES:
    images = _images(size)
    normalised = (images - np.float32(data['mean'])) / np.float32(data['std'])
    with torch.no_grad():
      got = model(_channels_first(torch, normalised))
    _assert_equal_embeddings(got.numpy(), _embed(network, variables, images))


_DEPTHS = (18, 34, 50, 101, 152, 200)


@pytest.mark.parametrize('depth', _DEPTHS)
def test_names_and_shapes_of_every_depth_that_they_have(depth):
  torch = pytest.importorskip('torch')
  models = pytest.importorskip('torchvision').models
  timm = pytest.importorskip('timm')
  config = _config(f'resnet{depth}')
  arrays = torch_layout.state_dict(config, jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), _shapes(config)[1]))
  got = {name: array.shape for name, array in arrays.items()}
  with torch.device('meta'):
    theirs = [timm.create_model(f'resnet{depth}', num_classes=0)]
    if depth < 200:  # torchvision has none of 200
      theirs.append(getattr(models, f'resnet{depth}')())
  for model in theirs:
    assert got == {
        name: tuple(x.shape) for name, x in model.state_dict().items()
        if not name.startswith('fc.')}


@pytest.mark.parametrize('depth', [
    18, 50, *(pytest.param(depth, marks=pytest.mark.slow)
              for depth in (34, 101, 152, 200))])
def test_embeddings_of_their_own_models(depth, fill):
  torch = pytest.importorskip('torch')
  models = pytest.importorskip('torchvision').models
  timm = pytest.importorskip('timm')
  config = _config(f'resnet{depth}')
  config.norm_epsilon = 1e-5
  network, variables = _network(config, fill)
  weights = {
      name: torch.from_numpy(array) for name, array in
      torch_layout.state_dict(config, variables).items()}
  theirs = [timm.create_model(f'resnet{depth}', num_classes=0)]
  if depth < 200:
    theirs.append(getattr(models, f'resnet{depth}')())
    theirs[1].fc = torch.nn.Identity()
  mean, std = (
      np.float32(config.augment[name]) for name in ('mean', 'std'))
  for size in _SIZES:
    images = _images(size)
    expected = _embed(network, variables, images)
    for model in theirs:
      model.load_state_dict(weights)
      with torch.no_grad():
        got = model.eval()(_channels_first(torch, (images - mean) / std))
      _assert_equal_embeddings(got.numpy(), expected)

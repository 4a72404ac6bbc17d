"""The way to detectors: torchvision's as documented, Detectron2's names."""

import dataclasses
import pathlib
import pickle
import re

import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.interchange import detectron2_file
from byol_jax.interchange import torch_folder
from byol_jax.interchange import torch_layout
from byol_jax.networks import network as network_lib

_DOCS = pathlib.Path(__file__).parents[2] / 'docs' / 'detection.md'


def _run_docs(folder, encoder, monkeypatch):
  """What the page's code defines, in the folder of an export."""
  torch_folder.write(folder, encoder)
  monkeypatch.chdir(folder)
  scope = {}
  for block in re.findall(r'```python\n(.*?)```', _DOCS.read_text(), re.S):
    exec(block, scope)  # noqa: S102
  return scope


@pytest.mark.parametrize('norm', ['batch', 'affine_init'])
def test_docs_load_the_encoder(
    norm, tmp_path, monkeypatch, create_encoder, create_images, embed):
  torch = pytest.importorskip('torch')
  pytest.importorskip('torchvision')
  encoder = create_encoder(norm, encoder='resnet18', width=1)
  encoder.config.norm_epsilon = 1e-3
  encoder = dataclasses.replace(
      encoder, network=network_lib.create_network(encoder.config, None))
  scope = _run_docs(tmp_path, encoder, monkeypatch)
  images = create_images(64, 64)
  mean, std = encoder.config.augment.mean, encoder.config.augment.std
  x = torch.from_numpy(
      ((images - np.float32(mean)) / np.float32(std)).transpose(0, 3, 1, 2))
  with torch.no_grad():
    got = scope['load_backbone']().eval()(x.contiguous()).numpy()
  expected = embed(encoder, images)
  np.testing.assert_allclose(
      got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize('kind', ['faster_rcnn_fpn', 'faster_rcnn_c4'])
def test_docs_build_torchvision_detectors(
    kind, tmp_path, monkeypatch, create_encoder):
  torch = pytest.importorskip('torch')
  pytest.importorskip('torchvision')
  scope = _run_docs(
      tmp_path, create_encoder(encoder='resnet18', width=1), monkeypatch)
  torch.manual_seed(0)
  detector = scope[kind](
      3, min_size=64, max_size=96, rpn_post_nms_top_n_test=20,
      rpn_post_nms_top_n_train=20)
  picture = torch.rand(3, 64, 96)
  losses = detector.train()([picture], [{
      'boxes': torch.tensor([[8.0, 8.0, 60.0, 50.0]]),
      'labels': torch.tensor([1])}])
  sum(losses.values()).backward()
  frozen = {
      name: x for name, x in detector.named_parameters() if not x.requires_grad}
  assert len(frozen) == 5  # of stem and first stage
  for name, x in detector.named_parameters():
    assert name in frozen or bool(torch.isfinite(x.grad).all()), name
  with torch.no_grad():
    (found,) = detector.eval()([picture])
  assert set(found) == {'boxes', 'labels', 'scores'}


def test_names_as_detectron2_has_them(tmp_path, create_encoder):
  encoder = create_encoder(encoder='resnet50', width=1)
  encoder.config.norm_epsilon = 1e-3
  detectron2_file.write(tmp_path, encoder)
  # A file that the line above has written.
  file = pickle.loads(
      (tmp_path / detectron2_file.WEIGHTS).read_bytes(), encoding='latin1')
  assert file['matching_heuristics'] is True
  model = file['model']
  convs = {name for name in model if model[name].ndim == 4}
  blocks = {2: 3, 3: 4, 4: 6, 5: 3}
  assert convs == {'stem.conv1.weight'} | {
      f'res{stage}.{block}.{conv}.weight'
      for stage, count in blocks.items() for block in range(count)
      for conv in ('conv1', 'conv2', 'conv3', *(
          ['shortcut'] if block == 0 else []))}
  leaves = ('weight', 'bias', 'running_mean', 'running_var')
  assert set(model) - convs == {
      name.replace('.weight', f'.norm.{leaf}')
      for name in convs for leaf in leaves}
  assert model['res3.0.shortcut.weight'].shape == (512, 256, 1, 1)
  theirs = torch_layout.state_dict(encoder.config, encoder.variables)
  np.testing.assert_array_equal(
      model['res5.2.conv2.weight'], theirs['layer4.2.conv2.weight'])
  # Under the root: the variance of the run, with Detectron2's epsilon.
  np.testing.assert_allclose(
      model['res2.0.shortcut.norm.running_var'] + 1e-5,
      theirs['layer1.0.downsample.1.running_var'] + 1e-3, rtol=1e-6)
  card = (tmp_path / 'README.md').read_text()
  for line in ('PIXEL_MEAN: [123.675, 116.28, 103.53]', 'NORM: FrozenBN',
               'STRIDE_IN_1X1: false', 'DEPTH: 50'):
    assert line in card


@pytest.mark.parametrize('options, message', [
    (dict(encoder='resnet10', width=1), 'expected a depth of 18'),
    (dict(encoder='resnet18', width=1, stem='cifar'), 'expected imagenet'),
    (dict(encoder='resnet18', width=1, norm='layer'), "norm is 'layer'"),
    (dict(encoder='resnet18', width=1, norm='group_ws'), '32 groups'),
    (dict(encoder='resnet18', width=1, padding='same'), "padding is 'same'")])
def test_what_detectron2_lacks_is_refused(options, message, create_encoder):
  with pytest.raises(config_lib.ConfigError, match=message) as error:
    detectron2_file.check(create_encoder(**options))
  assert len(str(error.value).splitlines()) == 1

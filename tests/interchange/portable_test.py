"""Encoders as programs, each run by its own runtime as its card says."""

import json
import re

import jax
import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.interchange import onnx_file
from byol_jax.interchange import portable
from byol_jax.interchange import saved_model
from byol_jax.interchange import stablehlo_file

# One position is left of the smallest, and an odd side is where paddings tell.
_SIZES = ((32, 32), (33, 48))


def _assert_equal(got, expected):
  """To 1e-5 of the largest number, and not because all are alike."""
  assert np.shape(got) == expected.shape
  assert np.std(expected, axis=0).max() > 1e-3
  np.testing.assert_allclose(
      got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize('norm, settings', [
    ('batch', {}), ('group_ws', {'stem': 'cifar'})])
def test_stablehlo(
    norm, settings, tmp_path, create_encoder, create_images, embed, run_card):
  encoder = create_encoder(norm, **settings)
  stablehlo_file.write(tmp_path, encoder)
  scope = run_card(tmp_path)
  assert scope['program'].platforms == ('cpu', 'cuda', 'tpu')
  for size in _SIZES if norm == 'batch' else _SIZES[1:]:
    images = create_images(*size, 3)
    _assert_equal(scope['encode'](images), embed(encoder, images))


def test_stablehlo_holds_no_choice_of_this_machine(tmp_path, create_encoder):
  """A matrix product would be a CPU's lowering of a small convolution."""
  stablehlo_file.write(tmp_path, create_encoder(image_size=16))
  program = jax.export.deserialize(
      bytearray((tmp_path / stablehlo_file.PROGRAM).read_bytes()))
  operations = re.findall(r'= "?stablehlo\.(\w+)', program.mlir_module())
  assert 'dot_general' not in operations
  # JAX may lower each of the 12 for every platform by itself.
  assert operations.count('convolution') in (12, 36)


def test_savedmodel(tmp_path, create_encoder, create_images, embed, run_card):
  encoder = create_encoder('batch')
  saved_model.write(tmp_path, encoder)
  scope = run_card(tmp_path)
  for size in _SIZES:
    images = create_images(*size, 3)
    expected = embed(encoder, images)
    _assert_equal(scope['encode'](images), expected)
  served = scope['module'].signatures['serving_default'](
      images=scope['tf'].constant(images))
  _assert_equal(served['embeddings'], expected)


@pytest.mark.parametrize('norm, size, settings', [
    ('batch', 32, {}),
    # One position is left, of an odd size, with more projections than torch.
    ('group_ws', 17, {'padding': 'same', 'projection_shortcut': 'group'}),
    *(pytest.param(*values, marks=pytest.mark.slow) for values in (
        ('instance', 64, {}), ('layer', 32, {'stem': 'stride2'}),
        ('none', 32, {'stem': 'cifar'}), ('affine_init', 33, {})))])
def test_onnx(
    norm, size, settings, tmp_path, create_encoder, create_images, embed,
    run_card):
  pytest.importorskip('tf2onnx')
  pytest.importorskip('onnxruntime')
  encoder = create_encoder(norm, size, **settings)
  onnx_file.write(tmp_path, encoder)
  encode = run_card(tmp_path)['encode']
  images = create_images(size, size, 3)
  expected = embed(encoder, images)
  _assert_equal(encode(images), expected)
  _assert_equal(np.concatenate([encode(x[None]) for x in images]), expected)


def test_same_padding_has_one_size(tmp_path, create_encoder, create_images):
  encoder = create_encoder(image_size=24, padding='same')
  stablehlo_file.write(tmp_path, encoder)
  program = jax.export.deserialize(
      bytearray((tmp_path / stablehlo_file.PROGRAM).read_bytes()))
  assert program.call(create_images(24, 24)).shape == (2, 64)
  with pytest.raises(ValueError):
    program.call(create_images(32, 32))
  assert '24, 24, 3], and no other size' in (
      tmp_path / 'README.md').read_text()
  facts = json.loads((tmp_path / 'config.json').read_text())
  assert facts['run']['image_size'] == 24


def test_an_encoder_that_computes_in_bfloat16_leaves_in_float32(
    create_encoder, create_images, embed):
  encoder = create_encoder()
  encoder.config.compute_dtype = 'bfloat16'
  images = create_images(32, 32)
  got = portable.make_encode(encoder)(
      portable.encoder_variables(encoder), images)
  _assert_equal(np.asarray(got), embed(encoder, images))


@pytest.mark.parametrize('change', [
    lambda x: x * (1 + 2e-4), lambda x: x * np.nan, lambda x: 0 * x])
def test_what_computes_something_else_is_refused(
    change, create_encoder, embed):
  encoder = create_encoder()
  assert portable.check_agreement(
      encoder, lambda images: embed(encoder, images), 'onnx') < 1e-5
  with pytest.raises(config_lib.ConfigError, match='do not use it') as error:
    portable.check_agreement(
        encoder, lambda images: change(embed(encoder, images)), 'onnx')
  assert len(str(error.value).splitlines()) == 1


def test_onnx_without_its_packages(monkeypatch, create_encoder):
  monkeypatch.setitem(__import__('sys').modules, 'onnxruntime', None)
  with pytest.raises(
      config_lib.ConfigError, match='pip install tf2onnx onnxruntime'):
    onnx_file.check(create_encoder())


def test_onnx_knows_no_other_primitive():
  pytest.importorskip('tensorflow')
  from byol_jax.interchange import tensorflow_graph
  from byol_jax.quiet_tensorflow import tf
  replay = tensorflow_graph.convert(lambda x: jax.numpy.sort(x, -1), (4,))
  with pytest.raises(config_lib.ConfigError, match='knows no sort'):
    replay(tf.zeros((2, 4)))

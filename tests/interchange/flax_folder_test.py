"""The folder of safetensors that `load_encoder` reads."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

import byol_jax
from byol_jax import config as config_lib
from byol_jax.interchange import flax_folder


@pytest.fixture
def folder(tmp_path, create_encoder):
  flax_folder.write(tmp_path, create_encoder('group_ws', padding='same'))
  return tmp_path


def test_gives_the_encoder_back(folder, create_encoder, create_images, embed):
  encode = byol_jax.load_encoder(folder)
  images = create_images(40, 32)
  expected = embed(create_encoder('group_ws', padding='same'), images)
  np.testing.assert_allclose(
      encode(images), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
  assert (encode.embedding_size, encode.image_size, encode.step) == (64, 32, 3)


def test_is_read_without_what_trains_and_saves(folder):
  code = (
      'import sys\n'
      'from byol_jax import load_encoder\n'
      f'load_encoder({str(folder)!r})\n'
      'for name in ("orbax.checkpoint", "tensorflow", "byol_jax.training",\n'
      '             "byol_jax.evaluation"):\n'
      '  assert name not in sys.modules, name\n')
  subprocess.run([sys.executable, '-c', code], check=True)
  names = safetensors.numpy.load_file(folder / flax_folder.WEIGHTS)
  assert {name.split('.')[1] for name in names} == {'encoder'}


def _cut_weights(folder):
  path = folder / flax_folder.WEIGHTS
  path.write_bytes(path.read_bytes()[:-1000])


def _cut_header(folder):
  (folder / flax_folder.WEIGHTS).write_bytes(b'12345')


def _flip_a_byte(folder):
  path = folder / flax_folder.WEIGHTS
  data = bytearray(path.read_bytes())
  data[-5] ^= 1
  path.write_bytes(data)


def _cut_config(folder):
  path = folder / 'config.json'
  path.write_text(path.read_text()[:100])


def _remove_weights(folder):
  (folder / flax_folder.WEIGHTS).unlink()


def _set(**fields):
  def change(folder):
    facts = json.loads((folder / 'config.json').read_text())
    facts['run']['config'].update(fields)
    (folder / 'config.json').write_text(json.dumps(facts))

  return change


def _say(**fields):
  def change(folder):
    facts = json.loads((folder / 'config.json').read_text())
    facts['run'].update(fields)
    (folder / 'config.json').write_text(json.dumps(facts))

  return change


def _say_nothing_of_the_run(folder):
  facts = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(facts | {'run': 'x'}))


def _forget_the_step(folder):
  path = folder / 'config.json'
  facts = json.loads(path.read_text())
  del facts['run']['step']
  path.write_text(json.dumps(facts))


def _call_it_torch(folder):
  path = folder / 'config.json'
  path.write_text(path.read_text().replace('"flax"', '"torch"'))


def test_outlives_the_fields_of_training(folder):
  _set(a_field_of_old=1)(folder)
  assert byol_jax.load_encoder(folder).embedding_size == 64


@pytest.mark.parametrize('damage, message', [
    (_cut_weights, 'cut short or damaged .*: copy or export it again'),
    (_cut_header, r'\(5 bytes\) is cut short'),
    (_flip_a_byte, 'SHA-256 is not'),
    (_cut_config, 'config.json is no JSON'),
    (_forget_the_step, 'config.json does not say the step of its run'),
    (_remove_weights, 'model.safetensors is not there'),
    (_set(encoder='resnet18'),
     r'another architecture .*group1_block2.conv1.kernel has the shape '
     r'\(not there\)'),
    (_set(encoder_norm='batch'), 'another architecture .* batch_stats'),
    (_set(encoder='MyEncoder'), 'custom encoder, MyEncoder: pass encoder='),
    (_set(resnet={'stem': 'foo'}),
     "config.json does not describe an encoder .*stem is 'foo', expected one"),
    (_set(resnet='x'), 'another architecture'),
    (_set(encoder_norm=3), "encoder_norm is 3, expected a value like 'batch'"),
    (_set(norm_groups=0), 'norm_groups is 0, expected at least 1'),
    (_set(resnet={'channels_per_group': [8, 'x', 8, 8]}), 'expected numbers'),
    (_set(augment={'mean': ['a', 'b', 'c']}), 'mean is .* expected numbers'),
    (_say(image_size='x'),
     "says image_size is 'x', expected a value of type int: it is damaged"),
    (_say(image_size=True), 'image_size is True'),
    (_say(image_size=0), 'image_size is 0, expected at least 1'),
    (_say(config='x'), "says config is 'x', expected a value of type dict"),
    (_say(evaluations={}), 'evaluations is {}, expected .* list'),
    (_say_nothing_of_the_run, "says run is 'x', expected an object"),
    (_call_it_torch, "no export of format flax .* 'torch'")])
def test_damage_is_one_clear_line(damage, message, folder):
  damage(folder)
  with pytest.raises(config_lib.ConfigError, match=message) as error:
    byol_jax.load_encoder(folder)
  assert len(str(error.value).splitlines()) == 1

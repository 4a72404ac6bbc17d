"""The card of an export."""

import dataclasses
import json

import pytest

from byol_jax import config as config_lib
from byol_jax.interchange import model_card
from byol_jax.interchange import pretrained


def _write(folder, encoder):
  model_card.write(
      folder, encoder, kind='flax', usage='Read it.\n', facts={'format': 'f'})
  return (folder / 'README.md').read_text()


def test_says_what_it_is(tmp_path, create_encoder):
  encoder = dataclasses.replace(
      create_encoder('group_ws', padding='same'), image_size=64)
  encoder.config.augment.mean = (0.25, 0.5, 0.75)
  card = _write(tmp_path, encoder)
  for fact in (
      '# resnet10, width 0.125', 'embeddings of 64 numbers', 'Read it.',
      'Mean [0.25, 0.5, 0.75]', 'at 32 px of 40',
      'the odd pixel to the right', '`group_ws`', '`tfds:imagenet2012`',
      'step 3, of a run set to 1000 epochs', '| batch size | 4096 |',
      'kNN, k=200', 'tfds:cifar10: 50000 of train', 'top-1 43.63',
      'Licence of the weights: CC0.'):
    assert fact in card, fact
  assert max(map(len, card.splitlines())) < 200
  facts = json.loads((tmp_path / 'config.json').read_text())
  assert facts['format'] == 'f'
  assert facts['run']['config'] == config_lib.to_dict(encoder.config)
  assert facts['run']['evaluations'][0]['metrics'] == {'knn/test_top1': 0.4363}


def test_does_not_say_where_files_lie(tmp_path, create_encoder):
  encoder = create_encoder()
  encoder.config.update(
      data='folder:/home/me/secret/birds', data_dir='/home/me/secret/data',
      init_from='/home/me/secret/run')
  encoder.config.semi_supervised.subsets = ('/home/me/secret/1.txt',)
  encoder = dataclasses.replace(encoder, records=tuple(
      record | {'data': 'pairs:/home/me/secret/maps',
                'checkpoint': '/home/me/secret/run'}
      for record in encoder.records))
  card = _write(tmp_path, encoder)
  assert 'folder:birds' in card and 'pairs:maps' in card
  assert 'secret' not in card + (tmp_path / 'config.json').read_text()


def test_says_what_is_not_known(tmp_path, create_encoder):
  encoder = dataclasses.replace(
      create_encoder(), records=(), licence=pretrained.UNKNOWN_LICENCE)
  card = _write(tmp_path, encoder)
  assert 'None is recorded' in card
  assert 'unspecified: ask whoever trained it' in card


def test_says_where_an_import_comes_from(tmp_path, create_encoder):
  encoder = dataclasses.replace(
      create_encoder(), origin={'file': 'x.pkl', 'licence': 'CC BY-NC 4.0'})
  assert 'file: x.pkl' in _write(tmp_path, encoder)


@pytest.mark.parametrize('name, licence, expected', [
    ('origin.json', '', 'CC BY-NC 4.0'), ('origin.json', 'MIT', 'MIT'),
    ('other.json', '', pretrained.UNKNOWN_LICENCE)])
def test_the_licence_of_a_workdir(
    name, licence, expected, tmp_path, tiny_config, monkeypatch):
  from byol_jax.training import saved_run

  class State:
    step, online_params, online_batch_stats = 5, {}, {}

  monkeypatch.setattr(
      saved_run, 'restore', lambda *_: (tiny_config, None, State))
  (tmp_path / name).write_text('{"licence": "CC BY-NC 4.0"}')
  encoder = pretrained.restore(tmp_path, licence=licence)
  assert encoder.licence == expected
  assert (encoder.step, encoder.image_size) == (5, 8)

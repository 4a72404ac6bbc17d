"""The labels that semi-supervised learning may see."""

import numpy as np
import pytest

from byol_jax import config as config_lib
from byol_jax.data import examples
from byol_jax.evaluation import label_subset

_LABELS = np.repeat([0, 1, 2], [100, 50, 3])


def _source(names=None):
  return examples.InMemorySource(
      name='some (train)', num_examples=len(_LABELS), num_classes=3,
      images=np.zeros((len(_LABELS), 2, 2, 3), np.uint8), labels=_LABELS,
      read_names=names)


def test_a_share_of_every_class():
  subset = label_subset.choose(_source(), _LABELS, 0.1, seed=0)
  assert np.bincount(_LABELS[subset]).tolist() == [10, 5, 1]
  np.testing.assert_array_equal(subset, np.unique(subset))
  np.testing.assert_array_equal(
      subset, label_subset.choose(_source(), _LABELS, 0.1, seed=0))
  other = label_subset.choose(_source(), _LABELS, 0.1, seed=1)
  assert not np.array_equal(subset, other)


def test_a_list_of_indices(tmp_path):
  path = tmp_path / 'list.txt'
  path.write_text('7\n3\n150\n3\n')
  np.testing.assert_array_equal(
      label_subset.choose(_source(), _LABELS, 0.1, seed=0, path=path),
      [3, 7, 150])


def test_a_list_of_names(tmp_path):
  path = tmp_path / 'list.txt'
  path.write_text('n01_7.JPEG\nn01_3.JPEG\n')
  names = lambda: [f'n01/n01_{i}.JPEG' for i in range(len(_LABELS))]
  np.testing.assert_array_equal(
      label_subset.choose(_source(names), _LABELS, 0.1, seed=0, path=path),
      [3, 7])


@pytest.mark.parametrize('text, names, message', [
    ('1\n153\n', None, 'has the index 153, expected from 0 to below 153'),
    ('1\n-1\n', None, 'has the index -1, expected from 0'),
    ('1\n' + '9' * 9999, None, 'has the index 9{18}, expected from 0'),
    ('', None, 'is empty'),
    ('a.png\n', None, 'have no names; expected indices'),
    ('a.png\nb.png\n', lambda: ['a.png'] * 153,
     'names 1 files that .* such as b.png'),
    ('x.png\n', lambda: ['a/x.png', 'b/x.png'] + ['c.png'] * 151,
     'names x.png, which .* holds several of; name it by its path, like a/x')])
def test_lists_that_do_not_fit(tmp_path, text, names, message):
  path = tmp_path / 'list.txt'
  path.write_text(text)
  with pytest.raises(config_lib.ConfigError, match=message):
    label_subset.choose(_source(names), _LABELS, 0.1, seed=0, path=path)
  settings = config_lib.get_base_config().semi_supervised
  settings.update(subsets=(str(path),), shares=(0.01,))
  with pytest.raises(config_lib.ConfigError, match=message):
    label_subset.check(settings, _source(names))


def test_a_list_that_is_no_text(tmp_path):
  path = tmp_path / 'list.txt'
  path.write_bytes('Köln.png\n'.encode('latin-1'))
  settings = config_lib.get_base_config().semi_supervised
  settings.update(subsets=(str(path),), shares=(0.01,))
  with pytest.raises(
      config_lib.ConfigError, match='list.txt is no text in UTF-8, expected'):
    label_subset.check(settings, _source())


def test_paths_tell_files_of_one_name_apart(tmp_path):
  path = tmp_path / 'list.txt'
  path.write_text('b/x.png')
  names = lambda: ['a/x.png', 'b/x.png'] + ['c.png'] * 151
  np.testing.assert_array_equal(
      label_subset.choose(_source(names), _LABELS, 0.1, seed=0, path=path),
      [1])


def test_as_many_lists_as_shares(tmp_path):
  settings = config_lib.get_base_config().semi_supervised
  settings.subsets = ('there is none',)
  with pytest.raises(config_lib.ConfigError, match='1 files for 2 shares'):
    label_subset.check(settings, _source())
  settings.shares = (0.01,)
  with pytest.raises(config_lib.ConfigError, match='no file there is none'):
    label_subset.check(settings, _source())

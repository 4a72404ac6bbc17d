"""Where an export goes."""

import pytest

from byol_jax import config as config_lib
from byol_jax.interchange import output_folder


def test_where_it_may_go(tmp_path):
  output_folder.check(tmp_path / 'new', 'torch')
  output_folder.check(tmp_path, 'torch')
  (tmp_path / 'config.json').write_text('{"format": "torch"}')
  output_folder.check(tmp_path, 'torch')


@pytest.mark.parametrize('name, text, message', [
    ('config.json', '{"format": "torch"}', 'holds an export of format torch'),
    ('config.json', '{"format": 1', 'holds files of yours'),
    ('README.md', 'mine', 'holds files of yours'),
    ('checkpoints', '', 'is a workdir')])
def test_where_it_would_take_a_place(name, text, message, tmp_path):
  (tmp_path / name).write_text(text)
  with pytest.raises(config_lib.ConfigError, match=message):
    output_folder.check(tmp_path, 'flax')


def test_a_file(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(config_lib.ConfigError, match='is a file'):
    output_folder.check(tmp_path / 'file', 'flax')


def test_all_or_nothing(tmp_path):
  folder = tmp_path / 'a' / 'b'
  with pytest.raises(KeyboardInterrupt), output_folder.fill(folder) as made:
    (made / 'weights').touch()
    raise KeyboardInterrupt
  assert not list(folder.parent.iterdir())
  folder.mkdir()
  folder.chmod(0o750)
  for text in ('old', 'new'):
    with output_folder.fill(folder) as made:
      (made / 'weights').write_text(text)
      (made / 'assets').mkdir()
      (made / 'assets' / text).touch()
  assert [path.name for path in folder.parent.iterdir()] == ['b']
  assert (folder / 'weights').read_text() == 'new'
  assert [path.name for path in (folder / 'assets').iterdir()] == ['new']
  assert folder.stat().st_mode & 0o777 == 0o750

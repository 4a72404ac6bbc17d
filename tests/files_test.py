"""Files are whole, or as they were."""

from etils import epath
import pytest

from byol_jax import files
from tests import remote


@pytest.fixture(params=['disk', 'bucket'])
def folder(request, tmp_path):
  with remote.bucket() as bucket:
    path = epath.Path(tmp_path if request.param == 'disk' else bucket)
    path.mkdir(parents=True, exist_ok=True)
    yield path


def test_text_and_bytes_replace_what_was_there(folder):
  for contents in ('longer than what follows', 'größer', b'\x00\xff'):
    files.write_whole(folder / 'file', contents)
    found = (folder / 'file').read_bytes()
    assert found == (
        contents if isinstance(contents, bytes) else contents.encode())
  assert [path.name for path in folder.iterdir()] == ['file']


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError])
def test_cut_short_it_is_as_it_was(folder, monkeypatch, error):
  files.write_whole(folder / 'file', 'old')

  def replace(self, target):
    assert self.read_text() == 'new' and target == folder / 'file'
    raise error

  monkeypatch.setattr(type(folder), 'replace', replace)
  with pytest.raises(error):
    files.write_whole(folder / 'file', 'new')
  assert (folder / 'file').read_text() == 'old'
  assert [path.name for path in folder.iterdir()] == ['file']


def test_where_there_is_no_folder(tmp_path):
  with pytest.raises(OSError):
    files.write_whole(tmp_path / 'nowhere' / 'file', 'x')


def test_absolute():
  assert str(files.absolute('gs://bucket/run')) == 'gs://bucket/run'
  assert str(files.absolute('/some/../run')) == '/run'
  assert files.absolute('run').is_absolute()
  assert '~' not in str(files.absolute('~/run'))

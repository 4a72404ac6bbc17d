"""Folders with everything in them that people's folders have."""

import os

import numpy as np
from PIL import Image
import pytest

from byol_jax import config as config_lib
from byol_jax.config import ConfigError
from byol_jax.data import examples
from byol_jax.data import folder_index
from byol_jax.data import photo
from byol_jax.data import pipeline
from byol_jax.data import sources


def _smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
  """A picture that JPEG hardly changes."""
  rng = np.random.default_rng(seed)
  small = rng.integers(40, 216, (2, 2, 3), np.uint8)
  return np.asarray(Image.fromarray(small).resize((width, height)))


def _open(path, split='train', max_bad=0.5, cache_bytes=0):
  config = config_lib.get_base_config()
  config.data = f'folder:{path}'
  config.max_bad_image_share = max_bad
  config.cache_bytes = cache_bytes
  return sources.create_source(config, split)


def _write(path, pixels=None, **kwargs):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = _smooth(20, 30) if pixels is None else pixels
  Image.fromarray(pixels).save(path, **kwargs)


def _image(source, index):
  return np.asarray(pipeline.read_image(source, index)).astype(int)


def _write_odd_files(root) -> dict[str, np.ndarray]:
  """Every odd kind, and what a viewer shows."""
  pixels = _smooth(20, 30)
  image = Image.fromarray(pixels)
  shown = {}

  def save(name, picture, expected=pixels, **kwargs):
    picture.save(root / name, **kwargs)
    shown[name] = expected

  gray = np.asarray(image.convert('L'))
  gray_rgb = np.repeat(gray[..., None], 3, axis=2)
  save('a_plain.jpg', image, quality=95)
  save('b_gray.jpg', image.convert('L'), gray_rgb, quality=95)
  save('c_cmyk.jpg', image.convert('CMYK'), quality=95)
  palette = image.quantize(32)
  save('d_palette.png', palette, np.asarray(palette.convert('RGB')))
  save('e_16bit.png', Image.fromarray(gray.astype(np.uint16) * 257), gray_rgb)
  alpha = np.tile(np.uint8([[[0]], [[255]]]), (10, 30, 1))
  save('f_alpha.png', Image.fromarray(np.concatenate([pixels, alpha], 2)),
       np.where(alpha == 0, 255, pixels))
  save('g_animated.gif', palette, np.asarray(palette.convert('RGB')),
       save_all=True, append_images=[image.rotate(90).quantize(32)])
  exif = Image.Exif()
  exif[0x0112] = 6  # shown turned a quarter clockwise
  save('h_turned.jpg', image, np.rot90(pixels, -1), quality=95, exif=exif)
  save('i_dot.png', image.crop((0, 0, 1, 1)), pixels[:1, :1])
  save('j_webp.webp', image, lossless=True)
  save('k_gray_alpha.png', image.convert('LA'), gray_rgb)
  save('l_transparent_palette.png', palette,
       np.asarray(palette.convert('RGB')), transparency=255)
  # All pixels are there, but TensorFlow's decoder refuses them.
  for name, cut in (('m_no_end.png', 12), ('n_cut_end.png', 1)):
    save(name, image)
    (root / name).write_bytes((root / name).read_bytes()[:-cut])
  save('o_wrong_checksum.png', image)
  contents = bytearray((root / 'o_wrong_checksum.png').read_bytes())
  contents[-13] ^= 1  # of the pixels, before the last chunk's 12 bytes
  (root / 'o_wrong_checksum.png').write_bytes(contents)
  return shown


def test_every_odd_kind_is_shown_as_by_a_viewer(tmp_path):
  shown = _write_odd_files(tmp_path)
  source = _open(tmp_path)
  assert isinstance(source, examples.EncodedSource)
  assert source.num_examples == len(shown) and not source.has_labels
  for index, (name, expected) in enumerate(sorted(shown.items())):
    found = _image(source, index)
    assert found.shape == expected.shape, name
    assert np.abs(found - expected).max() <= 12, name


def test_only_plain_files_go_the_fast_way(tmp_path):
  _write_odd_files(tmp_path)
  examined = folder_index.examine_folder(tmp_path, 10**6)
  assert [file.name[0] for file in examined.good if file.plain] == [
      'a', 'b', 'd', 'i']
  turned = next(f for f in examined.good if f.name.startswith('h'))
  assert (turned.height, turned.width) == (30, 20)  # as shown


def test_views_of_an_odd_folder(tmp_path):
  count = len(_write_odd_files(tmp_path))
  config = config_lib.get_base_config()
  config.image_size, config.batch_size = 24, count
  (batch,) = pipeline.create_train_dataset(
      _open(tmp_path), config, total_steps=1).as_numpy_iterator()
  assert sorted(batch['index']) == list(range(count))
  assert np.all(np.isfinite(batch['views']))


def test_bad_files_are_counted_named_and_skipped(tmp_path, caplog, cache_home):
  root = tmp_path / 'images'
  for i in range(8):
    _write(root / f'good{i}.jpg')
  (root / 'empty.jpg').touch()
  (root / 'text.png').write_text('not an image')
  _write(root / 'cut.jpg', np.random.default_rng(0).integers(
      0, 256, (99, 99, 3), np.uint8))
  whole = (root / 'cut.jpg').read_bytes()
  (root / 'cut.jpg').write_bytes(whole[:len(whole) // 2])
  (root / 'notes.txt').write_text('not meant as an image')
  with caplog.at_level('WARNING', logger='absl'):
    assert _open(root).num_examples == 8
  assert '3 of 11 image files' in caplog.text
  (log,) = cache_home.glob('byol_jax/bad-*.txt')
  assert sorted(log.read_text().splitlines()) == [
      f'{root}/cut.jpg\ttruncated', f'{root}/empty.jpg\tempty',
      f'{root}/text.png\tnot an image']
  with pytest.raises(
      ConfigError, match='3 of 11 image files.*max_bad_image_share=0.2'):
    _open(root, max_bad=0.2)


def test_what_was_examined_is_kept_when_a_job_is_stopped(
    tmp_path, monkeypatch):
  for name in 'abcde':
    _write(tmp_path / f'{name}.png')
  examined, examine = [], photo.examine

  def stop_at_the_fourth(path, *limit):
    examined.append(path)
    if len(examined) == 4:
      raise KeyboardInterrupt
    return examine(path, *limit)

  monkeypatch.setattr(photo, 'examine', stop_at_the_fourth)
  monkeypatch.setattr(folder_index, '_THREADS', 1)
  monkeypatch.setattr(folder_index, '_AT_ONCE', 2)
  monkeypatch.setattr(folder_index, '_KEEP_SECS', 0.0)
  with pytest.raises(KeyboardInterrupt):
    folder_index.examine_folder(tmp_path, 10**6)
  del examined[:]
  monkeypatch.setattr(
      photo, 'examine',
      lambda path, *limit: examined.append(path) or examine(path, *limit))
  assert len(folder_index.examine_folder(tmp_path, 10**6).good) == 5
  assert examined == [str(tmp_path / f'{name}.png') for name in 'de']


def test_files_are_examined_once(tmp_path, monkeypatch):
  _write(tmp_path / 'a.jpg')
  _write(tmp_path / 'b.jpg')
  examined = []
  examine = photo.examine
  monkeypatch.setattr(
      photo, 'examine',
      lambda path, *limit: examined.append(path) or examine(path, *limit))
  _open(tmp_path)
  assert len(examined) == 2
  _open(tmp_path)
  assert len(examined) == 2
  _write(tmp_path / 'b.jpg', _smooth(8, 8))
  os.utime(tmp_path / 'b.jpg', (1, 1))
  _open(tmp_path)
  assert examined[2:] == [str(tmp_path / 'b.jpg')]


def test_nested_files_are_in_the_order_of_their_paths(tmp_path):
  for i, name in enumerate(('b/c/z.jpg', 'a.jpg', 'b/a.png', 'b/.hidden.jpg',
                            '.cache/x.jpg')):
    _write(tmp_path / name, _smooth(10 + i, 12))
  source = _open(tmp_path)
  assert [_image(source, i).shape[0] for i in range(3)] == [11, 12, 10]
  assert source.num_examples == 3


def test_links_out_of_the_folder_are_not_followed(tmp_path):
  root = tmp_path / 'root'
  _write(root / 'a.jpg')
  _write(tmp_path / 'outside' / 'b.jpg')
  (root / 'inside.jpg').symlink_to(root / 'a.jpg')
  (root / 'file.jpg').symlink_to(tmp_path / 'outside' / 'b.jpg')
  (root / 'folder').symlink_to(tmp_path / 'outside')
  (root / 'broken.jpg').symlink_to(tmp_path / 'nothing.jpg')
  assert _open(root).num_examples == 2


def test_small_images_of_one_size_are_held_in_memory(tmp_path):
  for i in range(3):
    _write(tmp_path / f'{i}.png', _smooth(9, 9, seed=i))
  source = _open(tmp_path, cache_bytes=10_000)
  np.testing.assert_array_equal(source.images[2], _smooth(9, 9, seed=2))
  assert isinstance(_open(tmp_path, cache_bytes=100), examples.EncodedSource)


def test_split_folders_with_class_folders_are_labelled(tmp_path, caplog):
  for name in ('train/cat/0.jpg', 'train/dog/deep/1.jpg', 'train/dog/2.jpg',
               'val/dog/0.jpg'):
    _write(tmp_path / name)
  with caplog.at_level('INFO', logger='absl'):
    train = _open(tmp_path, 'train')
  assert '3 images, 2 classes' in caplog.text
  assert train.class_names == ('cat', 'dog') and train.num_classes == 2
  assert [int(train.load(i)['label']) for i in range(3)] == [0, 1, 1]
  val = _open(tmp_path, 'val', cache_bytes=10_000)
  np.testing.assert_array_equal(val.labels, [1])
  _write(tmp_path / 'val/cow/0.jpg')
  with pytest.raises(ConfigError, match='cow is not in a class'):
    _open(tmp_path, 'val')


@pytest.mark.parametrize('names', [
    ('cat/0.jpg', 'dog/0.jpg'),  # no split folder
    ('train/cat/0.jpg', 'train/dog.jpg'),
    ('train/cat/0.jpg',),
])
def test_other_folders_are_not_labelled(tmp_path, names, caplog):
  for name in names:
    _write(tmp_path / name)
  with caplog.at_level('INFO', logger='absl'):
    source = _open(tmp_path)
  assert source.num_examples == len(names) and not source.has_labels
  assert 'no labels' in caplog.text


def test_a_class_folder_without_images_is_no_class(tmp_path):
  _write(tmp_path / 'train/cat/0.jpg')
  (tmp_path / 'train/empty').mkdir()
  assert not _open(tmp_path).has_labels


def test_missing_things_are_one_clear_line(tmp_path):
  with pytest.raises(ConfigError, match='there is no such folder'):
    _open(tmp_path / 'none')
  with pytest.raises(ConfigError, match='holds no images'):
    _open(tmp_path)
  _write(tmp_path / 'a.jpg')
  with pytest.raises(ConfigError, match="no split 'test'.*test_split=''"):
    _open(tmp_path, 'test')

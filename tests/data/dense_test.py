"""Pairs of images and maps: what is read, what is refused, what moves."""

import numpy as np
from PIL import Image
import pytest

from byol_jax import config as config_lib
from byol_jax.config import ConfigError
from byol_jax.data import arrays
from byol_jax.data import dense
from byol_jax.data import dense_pipeline
from byol_jax.data import dense_scenes
from byol_jax.data import pipeline
from byol_jax.data import sources

IGNORED = dense.IGNORED
# Colours of classes 0 to 3, far from each other and from the mean colour.
COLORS = np.uint8([[250, 5, 5], [5, 250, 5], [5, 5, 250], [250, 250, 5]])


def _config(data, **fields):
  config = config_lib.get_base_config()
  config.data = data
  config.segmentation.update(
      batch_size=4, crop_size=33, **fields.get('segmentation', {}))
  config.depth.update(
      batch_size=4, scale=0.5, crop_height=12, crop_width=16,
      **fields.get('depth', {}))
  return config


def _open(data, split='train'):
  return sources.create_source(_config(data), split)


def _save(path, values, **kwargs):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.npy':
    np.save(path, values)
  else:
    Image.fromarray(values).save(path, **kwargs)


def _palette(path, values):
  """As VOC's: indices, shown in colours."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.fromarray(values)
  image.putpalette(np.random.default_rng(0).integers(
      0, 256, 768, np.uint8).tobytes())
  image.save(path)


def _label(seed, height=30, width=40, num_classes=4):
  """Blocks of 5 pixels."""
  small = np.random.default_rng(seed).integers(
      0, num_classes, (height // 5, width // 5), np.uint8)
  return small.repeat(5, axis=0).repeat(5, axis=1)


def _write_pairs(root, split='train', count=5, depth=False):
  """Images whose colours encode their labels, of two sizes."""
  for i in range(count):
    label = _label(i, 30 + 10 * (i % 2), 40)
    _save(root / split / 'images' / f'{i}.png', COLORS[label])
    _save(root / split / 'labels' / f'{i}.png', label)
    if depth:
      _save(root / split / 'depth' / f'{i}.npy', label.astype(np.float32) + 1)
  return f'pairs:{root}'


def test_voc(tmp_path):
  for i, name in enumerate(('b', 'a', 'unlisted')):
    _save(tmp_path / 'JPEGImages' / f'{name}.jpg',
          COLORS[_label(i)], quality=95)
    label = _label(i, num_classes=21)
    label[:2] = IGNORED
    _palette(tmp_path / 'SegmentationClass' / f'{name}.png', label)
  lists = tmp_path / 'ImageSets' / 'Segmentation'
  lists.mkdir(parents=True)
  (lists / 'train.txt').write_text('b\na\n')
  source = _open(f'voc:{tmp_path}')
  assert source.num_examples == 2 and len(source.map_classes) == 21
  assert not source.has_labels
  expected = _label(1, num_classes=21)
  expected[:2] = IGNORED
  np.testing.assert_array_equal(source.load_label(0), expected)
  with pytest.raises(ConfigError, match=r"no split 'val'.*\['train'\]"):
    _open(f'voc:{tmp_path}', 'val')


@pytest.mark.parametrize('kind', ['labelIds', 'labelTrainIds'])
def test_cityscapes(tmp_path, kind):
  """Of their 34 numbers 19 are classes; of train ids all are."""
  if kind == 'labelIds':
    values = np.uint8([[7, 8, 0, 33], [255, 1, 26, 11]])
    expected = [[0, 1, 255, 18], [255, 255, 13, 2]]
  else:
    values = np.uint8([[0, 1, 255, 18], [255, 255, 13, 2]])
    expected = values
  name = 'ulm/ulm_000000_000019'
  _save(tmp_path / f'leftImg8bit/val/{name}_leftImg8bit.png',
        np.zeros((2, 4, 3), np.uint8))
  _save(tmp_path / f'gtFine/val/{name}_gtFine_{kind}.png', values)
  source = _open(f'cityscapes:{tmp_path}', 'val')
  assert len(source.map_classes) == 19
  np.testing.assert_array_equal(source.load_label(0), expected)


def test_depth_files(tmp_path):
  """Metres in any number type, millimetres in a PNG; all read alike."""
  depth = np.linspace(0, 6, 12).reshape(3, 4)
  depth = np.round(depth, 3)
  files = {
      'a.npy': depth.astype(np.float32), 'b.npy': depth,
      'c.npy': np.asfortranarray(depth, np.float32),
      'd.png': np.round(depth * 1000).astype(np.uint16)}
  for name, values in files.items():
    _save(tmp_path / 'train' / 'depth' / name, values)
    _save(tmp_path / 'train' / 'images' / f'{name[0]}.png',
          np.zeros((3, 4, 3), np.uint8))
  source = _open(f'pairs:{tmp_path}')
  assert source.load_label is None and source.map_classes == ()
  for i in range(4):
    np.testing.assert_allclose(source.load_depth(i), depth, rtol=1e-6)


def test_classes_of_pairs(tmp_path):
  data = _write_pairs(tmp_path)
  assert _open(data).map_classes == tuple(f'class {i}' for i in range(4))
  (tmp_path / 'classes.txt').write_text('sky\n\nroad\ncar\ntree\nlamp\n')
  assert _open(data).map_classes == ('sky', 'road', 'car', 'tree', 'lamp')


def test_which_label_maps_say_anything(tmp_path):
  data = _write_pairs(tmp_path, count=3, depth=True)
  label = np.full((30, 40), IGNORED, np.uint8)
  _save(tmp_path / 'train/labels/2.png', label)
  assert _open(data).is_labelled.tolist() == [True, True, False]
  label[0, 0] = 1
  _save(tmp_path / 'train/labels/2.png', label)
  assert _open(data).is_labelled.tolist() == [True, True, True]
  for path in (tmp_path / 'train/labels').iterdir():
    path.unlink()
  (tmp_path / 'train/labels').rmdir()
  assert _open(data).is_labelled is None


def test_images_can_be_pretrained_on(tmp_path):
  data = _write_pairs(tmp_path)
  np.testing.assert_array_equal(
      pipeline.read_image(_open(data), 1), COLORS[_label(1, 40, 40)])


@pytest.mark.parametrize('spoil, message', [
    (lambda d: _save(d / 'labels/2.png', _label(2, 60, 40)),
     r'labels/2.png is 40x60 pixels .*images/2.png is 40x30; expected'),
    (lambda d: _save(d / 'labels/2.png', np.full((30, 40), 9, np.uint8)),
     r'labels/2.png holds the unknown class 9; expected 0 to 3'),
    (lambda d: _save(d / 'labels/2.png', COLORS[_label(2)]),
     r'labels/2.png is a PNG of mode RGB, expected a PNG with a palette'),
    (lambda d: (d / 'labels/2.png').unlink(),
     r'images/2.png is without partner \(1 such files\); .*labels'),
    (lambda d: (d / 'images/2.png').unlink(),
     r'labels/2.png is without partner \(1 such files\); .*images'),
    (lambda d: (d / 'labels/2.png').write_text('no picture'),
     r'labels/2.png cannot be decoded'),
    (lambda d: (d / 'images/2.png').write_bytes(b'\x89PNG'),
     r'images/2.png is not an image'),
    (lambda d: _save(d / 'depth/2.npy', np.full((30, 40), -1.0)),
     r'depth/2.npy holds depths that are negative'),
    (lambda d: _save(d / 'depth/2.npy', np.ones((30, 40, 3))),
     r'depth/2.npy is no depth map'),
    (lambda d: _save(d / 'depth/2.npy', np.ones((30, 41))),
     r'depth/2.npy is 41x30 pixels'),
])
def test_bad_pairs_are_named(tmp_path, spoil, message):
  data = _write_pairs(tmp_path, depth=True)
  (tmp_path / 'classes.txt').write_text('a\nb\nc\nd\n')
  _open(data)  # what is remembered of the good files must not hide the bad
  spoil(tmp_path / 'train')
  with pytest.raises(ConfigError, match=message):
    _open(data)


def test_a_class_of_the_test_split_that_train_has_not(tmp_path):
  data = _write_pairs(tmp_path)
  _write_pairs(tmp_path, 'test')
  _save(tmp_path / 'test/labels/1.png', np.full((40, 40), 4, np.uint8))
  with pytest.raises(ConfigError, match='test/labels/1.png.*unknown class 4'):
    _open(data, 'test')


@pytest.mark.parametrize('data, message', [
    ('pairs:/none', 'there is no such folder'),
    ('voc:', 'expected tfds:NAME')])
def test_no_such_data(data, message):
  with pytest.raises(ConfigError, match=message):
    _open(data)


def _batches(data, total_steps=6, **kwargs):
  config = _config(data)
  return list(dense_pipeline.create_segmentation_train_dataset(
      _open(data), config.segmentation, mean=(0.5, 0.4, 0.3),
      total_steps=total_steps, seed=3, **kwargs).as_numpy_iterator())


def test_image_and_label_map_move_together(tmp_path):
  """A colour that is sharp is that of its pixel's class."""
  seen, right, ignored = 0, 0, 0
  for batch in _batches(_write_pairs(tmp_path), total_steps=20):
    image, label = batch['image'], batch['label']
    assert image.shape == (4, 33, 33, 3) and label.shape == (4, 33, 33)
    distance = np.linalg.norm(
        image[..., None, :] - COLORS.astype(np.float32) / 255, axis=-1)
    sharp = (distance.min(axis=-1) < 0.02) & (label != IGNORED)
    seen += sharp.sum()
    right += (distance.argmin(axis=-1) == label)[sharp].sum()
    around = label == IGNORED
    ignored += around.sum()
    np.testing.assert_allclose(
        image[around], np.broadcast_to([0.5, 0.4, 0.3], (around.sum(), 3)),
        atol=1e-6)
  assert seen > 20_000 and right > 0.999 * seen
  assert ignored > 0


def test_batches_depend_on_their_position_only(tmp_path):
  data = _write_pairs(tmp_path)
  whole = _batches(data)
  resumed = _batches(data, start_step=4)
  halves = [_batches(data, process_index=i, process_count=2)
            for i in range(2)]
  assert len(whole) == 6 and len(resumed) == 2
  for key in ('image', 'label', 'index'):
    np.testing.assert_array_equal(whole[4][key], resumed[0][key])
    np.testing.assert_array_equal(
        whole[2][key], np.concatenate([half[2][key] for half in halves]))
  # Every example once an epoch, and not the same each time.
  assert sorted(np.concatenate([b['index'] for b in whole])[:5]) == [
      0, 1, 2, 3, 4]
  only = _batches(data, index=np.array([1, 3]))
  assert set(np.concatenate([b['index'] for b in only])) == {1, 3}


def test_evaluation_sees_every_pixel_once(tmp_path):
  data = _write_pairs(tmp_path)
  batches = list(dense_pipeline.create_segmentation_eval_dataset(
      _open(data), batch_size=4, mean=(0.5, 0.4, 0.3)).as_numpy_iterator())
  images, labels = (
      np.concatenate([b[key] for b in batches]) for key in ('image', 'label'))
  assert images.shape == (8, 49, 49, 3)  # 40 pixels, up to 16 n + 1
  for i in range(5):
    height = 30 + 10 * (i % 2)
    expected = _label(i, height, 40)
    np.testing.assert_array_equal(labels[i, :height, :40], expected)
    np.testing.assert_allclose(
        images[i, :height, :40], COLORS[expected] / 255, atol=1e-6)
    assert np.all(labels[i, height:] == IGNORED)
    assert np.all(labels[i, :, 40:] == IGNORED)
  np.testing.assert_allclose(
      images[:, 48, 48], np.tile([0.5, 0.4, 0.3], (8, 1)), atol=1e-6)
  assert np.all(labels[5:] == IGNORED)


def _depth_batches(data, **kwargs):
  config = _config(data)
  # Colours encode depths only as long as they stay.
  config.depth.update(
      grayscale_prob=0.0, brightness=0.0, saturation_range=(1.0, 1.0),
      hue=0.0, **kwargs)
  return list(dense_pipeline.create_depth_train_dataset(
      _open(data), config.depth, total_steps=5, seed=1).as_numpy_iterator())


def test_image_and_depth_move_together(tmp_path):
  batches = _depth_batches(_write_pairs(tmp_path, depth=True))
  images = np.concatenate([b['image'] for b in batches])
  depths = np.concatenate([b['depth'] for b in batches])
  assert images.shape == (20, 12, 16, 3) and depths.shape == (20, 12, 16)
  distance = np.linalg.norm(
      images[..., None, :] - COLORS.astype(np.float32) / 255, axis=-1)
  sharp = distance.min(axis=-1) < 0.02
  assert sharp.sum() > 500
  np.testing.assert_array_equal(
      distance.argmin(axis=-1)[sharp] + 1, depths[sharp])
  # Both a picture and its mirror image occur.
  first = images[np.concatenate([b['index'] for b in batches]) == 0]
  assert len(np.unique(first, axis=0)) == 2


def test_depth_evaluation_is_the_centre(tmp_path):
  data = _write_pairs(tmp_path, depth=True)
  config = _config(data)
  (batch, _) = dense_pipeline.create_depth_eval_dataset(
      _open(data), config.depth, batch_size=4).as_numpy_iterator()
  # Half of 30x40 is 15x20: of its rows 1 to 12, of its columns 2 to 17.
  depth = _label(0)[1::2, 1::2][1:13, 2:18] + 1
  np.testing.assert_array_equal(batch['depth'][0], depth)


def test_colors_change_within_their_ranges(tmp_path):
  data = _write_pairs(tmp_path, depth=True)
  still = _depth_batches(data, flip_prob=0.0)
  config = _config(data)
  config.depth.update(flip_prob=0.0)
  changed = list(dense_pipeline.create_depth_train_dataset(
      _open(data), config.depth, total_steps=5, seed=1).as_numpy_iterator())
  grey = []
  for before, after in zip(still, changed, strict=True):
    np.testing.assert_array_equal(before['depth'], after['depth'])
    assert after['image'].min() >= 0 and after['image'].max() <= 1
    grey.extend(np.ptp(after['image'], axis=-1).max(axis=(1, 2)) < 1e-6)
  assert 0 < np.mean(grey) < 1


def test_scenes(tmp_path):
  """The same every time; what a picture is, and how large, says how far."""
  pictures = dense_scenes.Pictures(arrays.create_fake_source('', 'train', 32))
  for name in ('a', 'b'):
    dense_scenes.write_scenes(
        str(tmp_path / name), train=pictures, test=pictures, num_unlabelled=1,
        num_train=10, num_test=1, height=64, width=96)
  source = _open(f'pairs:{tmp_path / "a"}')
  assert source.map_classes == ('wall', *pictures.class_names)
  again = _open(f'pairs:{tmp_path / "b"}')
  spans = {}
  for i in range(10):
    np.testing.assert_array_equal(
        pipeline.read_image(source, i), pipeline.read_image(again, i))
    label, depth = source.load_label(i).numpy(), source.load_depth(i)
    np.testing.assert_array_equal(depth, again.load_depth(i))
    depth = depth.numpy()
    assert (depth[label == 0] == dense_scenes.WALL).all()
    assert (depth[label > 0] < dense_scenes.WALL).all()
    for number in np.unique(label):
      spans.setdefault(number, []).extend(np.unique(depth[label == number]))
  assert sorted(spans) == list(range(len(source.map_classes)))
  # Of one class some are nearer and some further, and the large ones further.
  assert max(spans[1]) > 1.2 * min(spans[1])
  largest = max(spans)
  assert np.mean(spans[largest]) > 2.5 * np.mean(spans[1])
  assert _open(f'folder:{tmp_path / "a" / "unlabelled"}').num_examples == 1


def test_scenes_that_cannot_be(tmp_path):
  pictures = dense_scenes.Pictures(arrays.create_fake_source('', 'train', 32))
  with pytest.raises(config_lib.ConfigError, match='multiples of 32'):
    dense_scenes.write_scenes(
        str(tmp_path), train=pictures, test=pictures, num_unlabelled=1,
        num_train=1, num_test=1, height=50, width=96)
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / 'a.png')
  config = config_lib.get_base_config()
  config.data = f'folder:{tmp_path}'
  with pytest.raises(config_lib.ConfigError, match='no labels'):
    dense_scenes.Pictures(sources.create_source(config, 'train'))

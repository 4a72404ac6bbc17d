"""Joined splits hold every example of each, in turn."""

import numpy as np
import tensorflow as tf

from byol_jax.data import examples
from byol_jax.data import joined
from byol_jax.data import pipeline


def _images(count, size=6, seed=0):
  return np.random.default_rng(seed).integers(
      0, 256, (count, size, size, 3), np.uint8)


def _source(images, labels):
  return examples.InMemorySource(
      name='part', num_examples=len(images), num_classes=9, images=images,
      labels=np.asarray(labels, np.int32))


def _encoded(images, labels):
  contents = tf.stack([tf.io.encode_png(image) for image in images])
  labels = tf.constant(labels, tf.int32)
  return examples.EncodedSource(
      name='part', num_examples=len(images), num_classes=9,
      load=lambda i: {'image': contents[i], 'label': labels[i]})


def _read(source):
  dataset = tf.data.Dataset.range(source.num_examples).map(source.load)
  loaded = list(dataset.as_numpy_iterator())
  return ([tf.io.decode_png(x['image']).numpy() for x in loaded],
          [int(x['label']) for x in loaded])


def test_one_is_itself():
  source = _source(_images(2), [0, 1])
  assert joined.join([source]) is source


def test_in_memory_stays_in_memory():
  first, second = _images(3), _images(2, seed=1)
  source = joined.join([_source(first, [0, 1, 2]), _source(second, [3, 4])])
  assert isinstance(source, examples.InMemorySource)
  assert source.num_examples == 5 and source.name == 'part + part'
  np.testing.assert_array_equal(source.images, np.concatenate([first, second]))
  np.testing.assert_array_equal(source.labels, range(5))


def test_of_every_kind_and_size():
  parts = [_images(3), _images(1, size=4), _images(2, seed=1)]
  source = joined.join([
      _encoded(parts[0], [0, 1, 2]), _source(parts[1], [3]),
      _encoded(parts[2], [4, 5])])
  images, labels = _read(source)
  assert labels == list(range(6))
  for got, want in zip(images, [x for part in parts for x in part],
                       strict=True):
    np.testing.assert_array_equal(got, want)


def test_goes_through_the_pipeline(tiny_config):
  source = joined.join([
      _encoded(_images(3), [0, 1, 2]), _source(_images(3, size=8), [3, 4, 5])])
  batches = list(pipeline.create_eval_dataset(
      source, tiny_config, batch_size=4).as_numpy_iterator())
  labels = np.concatenate([b['label'][b['mask']] for b in batches])
  np.testing.assert_array_equal(labels, range(6))

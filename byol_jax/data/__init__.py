"""Input: sources of examples, augmentation, and tf.data pipelines.

The way the data goes: `sources` opens a dataset and reads examples by index,
`randomness` says which example and which draws belong to a position in the
run, `crop` and `augment` are the operations, `views` composes them into one
view, and `pipeline` makes batches.

TensorFlow only feeds data here: importing this package hides every
accelerator from it, so that JAX finds them free, and keeps its start-up
notices off the terminal unless TF_CPP_MIN_LOG_LEVEL was set by the user.
"""

from collections.abc import Iterator
import contextlib
import os
import sys


@contextlib.contextmanager
def _quiet_cpp_logging() -> Iterator[None]:
  """Holds back what C++ code writes to stderr; Python errors still show."""
  if 'TF_CPP_MIN_LOG_LEVEL' in os.environ:
    yield
    return
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  # A few notices come before TensorFlow's logging has read its level.
  sys.stderr.flush()
  stderr = os.dup(2)
  with open(os.devnull, 'wb') as devnull:
    os.dup2(devnull.fileno(), 2)
  try:
    yield
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)


with _quiet_cpp_logging():
  import tensorflow as tf
  for _kind in ('GPU', 'TPU'):
    tf.config.set_visible_devices([], _kind)

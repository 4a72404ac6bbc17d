"""TensorFlow, which only feeds data, kept off accelerators and terminal.

Importing this module imports TensorFlow, hides every accelerator from it, so
that JAX finds them free, and holds back its start-up notices; set
TF_CPP_MIN_LOG_LEVEL to 0 to see them. (JAX sets it to 1, so any other level
may not be the user's.) Whatever of ours imports TensorFlow imports this first.

From gs:// it would fetch 64 MB around every record that is read; images are
read one by one in random order, and so it is 1 MB, unless the environment
says otherwise.

Its operations take one thread each: pipelines make images in parallel, and its
XLA would split each loop over an image for as many threads as there are cores,
whatever a pipeline's options say.

TensorFlow imports Keras ahead of need, and with it SciPy's statistics,
scikit-learn and Matplotlib, which is a third of its time; nothing here uses
it, and who does gets it at its first use.

It puts what its XLA compiles into a folder in memory, `PROGRAMS`, and looks
there first; `data/program_cache` fills it. Not where TF_XLA_FLAGS name another
(`--tf_xla_persistent_cache_directory=`: none), or a file of flags.
"""

from collections.abc import Iterator
import contextlib
import functools
import importlib.metadata
import os
import sys

# Of TensorFlow's file systems: this process's memory.
PROGRAMS = 'ram://byol_jax/programs'
_PROGRAMS_FLAG = '--tf_xla_persistent_cache_directory'
# Those that know the flag: others end a process that has it.
TENSORFLOWS = ('2.20.', '2.21.')


@contextlib.contextmanager
def _quiet_cpp_logging() -> Iterator[None]:
  """Holds back what C++ code writes to stderr; Python errors still show."""
  if os.environ.get('TF_CPP_MIN_LOG_LEVEL') == '0':
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


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
  """Hides it from imports, unless it is there already."""
  is_there = 'keras' in sys.modules
  if not is_there:
    sys.modules['keras'] = None  # as if it were not installed
  try:
    yield
  finally:
    if not is_there:
      del sys.modules['keras']


@contextlib.contextmanager
def _programs_in_memory() -> Iterator[None]:
  """For TensorFlow's first look at its flags, as it is imported or later."""
  flags = os.environ.get('TF_XLA_FLAGS')
  are_flags = not flags or flags.lstrip().startswith('-')  # else a file's name
  if are_flags and _PROGRAMS_FLAG not in (flags or '') and _knows_the_flag():
    os.environ['TF_XLA_FLAGS'] = (
        f'{flags or ""} {_PROGRAMS_FLAG}={PROGRAMS}'.strip())
  try:
    yield
  finally:
    os.environ.pop('TF_XLA_FLAGS', None)
    if flags is not None:
      os.environ['TF_XLA_FLAGS'] = flags


def _knows_the_flag() -> bool:
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    version = importlib.metadata.version('tensorflow') or ''  # damaged: None
    return version.startswith(TENSORFLOWS)
  return False  # under another name, or a build of the user's own


# Read as TensorFlow is loaded.
os.environ.setdefault('GCS_READ_CACHE_BLOCK_SIZE_MB', '1')
with _quiet_cpp_logging(), _without_keras(), _programs_in_memory():
  import tensorflow as tf
  for _kind in ('GPU', 'TPU'):
    tf.config.set_visible_devices([], _kind)
  with contextlib.suppress(RuntimeError):  # a user's program is at it already
    tf.config.threading.set_intra_op_parallelism_threads(1)


@functools.cache
def start_compiler() -> None:
  """Lets TensorFlow's XLA read its flags, once, where there are none.

  XLA_FLAGS are meant for JAX's XLA. TensorFlow's own, which may be older, would
  end the process at one that it does not know. To be called before it compiles
  anything.
  """
  flags = os.environ.pop('XLA_FLAGS', None)
  try:
    with tf.init_scope():  # else, while a pipeline is traced, it would not run
      tf.function(lambda x: x + 1.0, jit_compile=True)(0.0)
  finally:
    if flags is not None:
      os.environ['XLA_FLAGS'] = flags

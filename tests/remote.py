"""gs:// without a network: TensorFlow's own file system in memory.

`epath` reaches gs:// through TensorFlow's `gfile`. Here its paths become
ram://, with all else as it is: the errors, what a folder is, how a file is
replaced. What does not go through epath (orbax, TensorBoard) does not come
here.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import secrets
from typing import Any
from unittest import mock

from etils.epath import backend
from etils.epath import gpath

from byol_jax.quiet_tensorflow import tf


class _Memory:
  """`tf.io.gfile`, on gs://."""

  def __getattr__(self, name: str) -> Callable[..., Any]:
    function = getattr(tf.io.gfile, name)

    def call(*args: Any, **settings: Any) -> Any:
      args = [
          f'ram://{str(arg)[5:]}' if str(arg).startswith('gs://') else arg
          for arg in args]
      found = function(*args, **settings)
      if name == 'glob':
        return [f'gs://{path[6:]}' for path in found]
      return found
    return call


@contextlib.contextmanager
def bucket() -> Iterator[str]:
  """An empty gs:// bucket of its own."""
  with mock.patch.object(backend.tf_backend.__class__, 'gfile', _Memory()), (
      mock.patch.object(gpath, '_is_zonal_gcs_bucket', lambda _: False)):
    yield f'gs://{secrets.token_hex(4)}'

"""What the processes of a job tell each other, and have to be the same in all.

Who branches on what its own disk says, while others wait for it in a
collective, hangs them all. So such a branch is taken by what the first process
says; and what they could never agree on is said in a line.

All processes must call each of these functions, in the same order.
"""

from collections.abc import Iterable
import json
import secrets
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from byol_jax import config as config_lib
from byol_jax import peers


def gather(x: np.ndarray) -> np.ndarray:
  """Every process's array, bit for bit.

  Args:
    x: of the host, of one shape and type in all processes.

  Returns:
    [processes, ...].
  """
  if jax.process_count() == 1:
    return x[np.newaxis]
  peers.wait()
  # As bytes, for JAX has no types of 64 bits.
  shares = np.asarray(multihost_utils.process_allgather(
      np.frombuffer(x.tobytes(), np.uint8)))
  return np.frombuffer(shares.tobytes(), x.dtype).reshape(
      jax.process_count(), *x.shape)


def total(x: np.ndarray) -> np.ndarray:
  """The sum of all processes' arrays, added in their order."""
  return gather(x).sum(axis=0)


def union(indices: Iterable[int]) -> list[int]:
  """What is among those of any process, in order."""
  mine = np.array(sorted(indices), np.int64)
  with jax.transfer_guard('allow'):  # of a step, where this is rare
    counts = gather(np.array(len(mine)))
    if not counts.any():
      return []
    rows = gather(np.pad(mine, (0, counts.max() - len(mine))))
  return np.unique(np.concatenate([
      row[:count] for row, count in zip(rows, counts, strict=True)])).tolist()


def of_first(value: Any) -> Any:
  """What process 0 was given; of JSON's types, NaN among them."""
  if jax.process_count() == 1:
    return value
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  size = int(gather(np.array(len(text)))[0])
  text = np.resize(text, size) if jax.process_index() else text
  return json.loads(gather(text)[0].tobytes())


def check_same(what: str, value: Any) -> None:
  """Raises ConfigError, in all processes, where one was given another value.

  Args:
    what: it is, for the message.
    value: of JSON's types.
  """
  if jax.process_count() == 1:
    return
  first = of_first(value)
  text = json.dumps(value, sort_keys=True)
  differs = text != json.dumps(first, sort_keys=True)
  wrong = np.flatnonzero(gather(np.array(differs)))
  if wrong.size:
    mine = f'; here: {text[:200]}' if differs else ''
    raise config_lib.ConfigError(
        f'{what} of process {", ".join(map(str, wrong))} differs from that of '
        f'process 0: {json.dumps(first, sort_keys=True)[:200]}{mine}; expected '
        'the same command, code and data for all')


def check_shared(directory: str, flag: str) -> None:
  """Raises ConfigError, in all processes, where one has a folder of its own.

  Args:
    directory: that all write to together, if process 0 has it.
    flag: that named it, for the message.
  """
  if jax.process_count() == 1:
    return
  folder = epath.Path(directory)
  if not of_first(folder.is_dir()):
    return
  path = folder / f'.shared-{of_first(secrets.token_hex(8))}'
  if not jax.process_index():
    path.write_text('')
  multihost_utils.sync_global_devices('shared')
  missing = np.flatnonzero(gather(np.array(not path.exists())))
  if not jax.process_index():
    path.unlink(missing_ok=True)
  if missing.size:
    raise config_lib.ConfigError(
        f'{flag}={directory} of process {", ".join(map(str, missing))} is not '
        'the folder of process 0: expected one that all processes share, such '
        'as gs://BUCKET/DIR or a folder of a network file system')

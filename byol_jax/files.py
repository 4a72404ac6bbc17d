"""Files of a workdir, on a disk or on gs://: whole, or as they were."""

import contextlib
import os
import secrets

from etils import epath


def absolute(path: epath.PathLike) -> epath.Path:
  """From the root, with `~` expanded, as orbax asks for; gs:// stays.

  `epath.Path.resolve` would take gs:// for a folder of the current one.
  """
  path = epath.Path(path).expanduser()
  return path if '://' in os.fspath(path) else path.resolve()


def write_whole(path: epath.PathLike, contents: str | bytes) -> None:
  """Writes or replaces a file; whenever the job ends, it is old or new.

  Others may write the same one at the same time: the last one stays.

  Args:
    path: in a folder that is there.
    contents: text in UTF-8, or bytes.

  Raises:
    OSError: it cannot be written.
  """
  path = epath.Path(path)
  unfinished = path.with_name(f'.{path.name}.{secrets.token_hex(4)}')
  try:
    if isinstance(contents, str):
      contents = contents.encode()
    unfinished.write_bytes(contents)
    unfinished.replace(path)
  except BaseException:
    with contextlib.suppress(Exception):
      unfinished.unlink(missing_ok=True)
    raise

"""Failures of disks and of what writes to them, in a few words."""

import re

_KNOWN = (
    'No space left on device', 'Read-only file system', 'Disk quota exceeded',
    'Input/output error', 'Permission denied')


def reason(error: BaseException) -> str:
  """What libraries say on pages, of which a line is to be made."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = ' '.join(str(error).split())
  known = re.search('|'.join(_KNOWN), text)
  return known.group() if known else text[:200]

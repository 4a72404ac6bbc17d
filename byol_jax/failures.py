"""Failures of disks, networks and devices, in a few words."""

import re

_KNOWN = (
    'No space left on device', 'Read-only file system', 'Disk quota exceeded',
    'Input/output error', 'Permission denied')
# What JAX says where a network, or a machine, was slow.
_OF_A_NETWORK = ('DEADLINE_EXCEEDED', 'UNAVAILABLE')
# And TensorStore, where a bucket is out of reach, or busy.
_OF_A_STORE = (*_OF_A_NETWORK, 'ABORTED')
# And where a device fell out. Its memory being too small (RESOURCE_EXHAUSTED)
# or the program being wrong would come again.
_OF_A_DEVICE = ('ABORTED', 'CANCELLED', 'DATA_LOSS', 'INTERNAL', 'UNKNOWN')


def reason(error: BaseException) -> str:
  """What libraries say on pages, of which a line is to be made."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = ' '.join(str(error).split())
  known = re.search('|'.join(_KNOWN), text)
  return known.group() if known else text[:200]


def is_of_a_network(error: Exception) -> bool:
  """Whether a collective of JAX waited for too long."""
  return any(word in str(error) for word in _OF_A_NETWORK)


def is_of_a_store(error: BaseException) -> bool:
  """Whether TensorStore could not reach the files; orbax may have wrapped it.

  It has no types of its own for that, but begins with the status.
  """
  return any(
      type(e) in (Exception, ValueError) and str(e).startswith(_OF_A_STORE)
      for e in (error, error.__cause__))


def is_of_a_device(error: Exception) -> bool:
  """Whether JAX says that a device failed; starting again is a new chance.

  A defect of a compiler looks the same, and comes again.
  """
  return type(error).__name__ == 'JaxRuntimeError' and str(error).startswith(
      (*_OF_A_NETWORK, *_OF_A_DEVICE))

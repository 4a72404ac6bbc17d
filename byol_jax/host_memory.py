"""The C library's memory: given back at every save, not at every step.

glibc returns large blocks to the system as soon as they are free, and each new
one is then paid for by page faults: on a CPU the quickstart's step takes 1.22
times as long for that. But what is never returned grows: compiling leaves 400
MB, and every save touches a little more of what lies free.
"""

import ctypes
import os

# Of malloc.h, with the names of the variables that glibc reads itself.
_SETTINGS = {
    'MALLOC_TRIM_THRESHOLD_': (-1, 2**31 - 1),
    'MALLOC_TOP_PAD_': (-2, 2**28),
    'MALLOC_MMAP_MAX_': (-4, 0),
}


def keep() -> None:
  """From now on; nothing where the C library is another one.

  What the environment says, by glibc's own variables, stays as it is.
  """
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return
  for name, (parameter, value) in _SETTINGS.items():
    if name not in os.environ:
      mallopt(parameter, value)


def give_back() -> None:
  """What is free now; takes milliseconds, and page faults afterwards."""
  trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  if trim is not None:
    trim(0)

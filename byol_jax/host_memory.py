"""The C library's memory: in large pages, given back at saves, not at steps.

glibc returns large blocks to the system as soon as they are free, and each new
one is then paid for by page faults: on a CPU the quickstart's step takes 1.22
times as long for that. But what is never returned grows: compiling leaves 400
MB, and every save touches a little more of what lies free.

Of blocks beyond 64 MB threads return each in any case, and walk through them in
pages of 4 kB. In pages of 2 MB a ResNet-18's step takes 0.7 to 0.8 of the time,
a ResNet-50's 0.8.
"""

import contextlib
import ctypes
import os
import pathlib
import sys

# Of malloc.h, with the names of the variables that glibc reads itself.
_SETTINGS = {
    'MALLOC_TRIM_THRESHOLD_': (-1, 2**31 - 1),
    'MALLOC_TOP_PAD_': (-2, 2**28),
    'MALLOC_MMAP_MAX_': (-4, 0),
}

# Has glibc (2.35 or newer) advise the system to give it large pages; read as a
# process starts, and never again.
_LARGE_PAGES = 'glibc.malloc.hugetlb'
_SYSTEM = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')


def start_with_large_pages() -> None:
  """Starts this process anew, with the same command, where that gains them.

  It stays the process that it is, by its number and its standard streams.
  Nothing is done where the system gives large pages unasked, or never; where
  the environment (GLIBC_TUNABLES) settles it; where JAX is at work already, as
  in a notebook, or a debugger; or where the program came from the standard
  input, which is read by now.
  """
  tunables = os.environ.get('GLIBC_TUNABLES', '')
  if (_LARGE_PAGES in tunables or 'jax' in sys.modules or sys.gettrace()
      or sys.orig_argv[1:2] in ([], ['-']) or not _given_when_asked()):
    return
  os.environ['GLIBC_TUNABLES'] = ':'.join(
      filter(None, (tunables, f'{_LARGE_PAGES}=1')))
  sys.stdout.flush()
  sys.stderr.flush()
  with contextlib.suppress(OSError):  # Python in another program
    os.execv(sys.executable, sys.orig_argv)


def _given_when_asked() -> bool:
  try:
    return '[madvise]' in _SYSTEM.read_text()
  except OSError:  # of other systems, or hidden
    return False


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

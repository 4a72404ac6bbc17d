"""The C library's memory: in large pages, given back at saves, not at steps.

glibc returns large blocks to the system as soon as they are free, and each new
one is then paid for by page faults: on a CPU the quickstart's step takes 1.22
times as long for that. But what is never returned grows: compiling leaves 400
MB, and every save touches a little more of what lies free.

Threads return every block of more than 64 MB in any case, and meet it in pages
of 4 kB. In pages of 2 MB a ResNet-18's step takes 0.7 to 0.8 of the time, a
ResNet-50's 0.8.
"""

import contextlib
import ctypes
import multiprocessing
import os
import pathlib
import sys

# Of malloc.h, with the names of the variables that glibc reads itself.
_SETTINGS = {
    'MALLOC_TRIM_THRESHOLD_': (-1, 2**31 - 1),
    'MALLOC_TOP_PAD_': (-2, 2**28),
    'MALLOC_MMAP_MAX_': (-4, 0),
}

# Has glibc, from 2.35 on, advise the system to give it large pages; read as a
# process starts, and never again.
_LARGE_PAGES = 'glibc.malloc.hugetlb'
_SYSTEM = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')


def start_with_large_pages() -> None:
  """Starts this process anew, with the same command, where that gains them.

  It stays the process that it is, by its number, its standard streams and its
  environment. Nothing is done where the system gives large pages unasked, or
  never; where the environment (GLIBC_TUNABLES) settles it; where JAX is at work
  already, as in a notebook; under a debugger; or where the program cannot be
  read again: one that came through a pipe, a session, or another process's
  child by multiprocessing. An argument such as `<(...)` is read twice, in vain.
  """
  tunables = os.environ.get('GLIBC_TUNABLES', '')
  if (_LARGE_PAGES in tunables or 'jax' in sys.modules or sys.gettrace()
      or not _can_start_anew() or not _given_when_asked()):
    return
  os.environ['GLIBC_TUNABLES'] = ':'.join(
      filter(None, (tunables, f'{_LARGE_PAGES}=1')))
  for stream in filter(None, (sys.stdout, sys.stderr)):  # None where closed
    stream.flush()
  with contextlib.suppress(OSError):  # Python in another program
    os.execv(sys.executable, sys.orig_argv)


def _can_start_anew() -> bool:
  """Whether the program can be read again, and is this process's own."""
  return (
      (sys.argv[0] == '-c' or os.path.isfile(sys.argv[0]))
      and not hasattr(sys, 'ps1')
      and multiprocessing.parent_process() is None)


def _given_when_asked() -> bool:
  """Whether glibc knows how to ask, and the system then gives."""
  try:
    library, version = os.confstr('CS_GNU_LIBC_VERSION').split()
    return library == 'glibc' and '[madvise]' in _SYSTEM.read_text() and (
        tuple(map(int, version.split('.')[:2])) >= (2, 35))
  except (AttributeError, OSError, ValueError):  # of other systems, or hidden
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
  """What is free now; takes milliseconds, and page faults afterwards.

  Linux fills large pages again of which some is used: in minutes, much of it is
  back, up to what the process once had.
  """
  trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  if trim is not None:
    trim(0)

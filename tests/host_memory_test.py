"""What is freed stays with the process, until it is given back."""

import ctypes
import os
import subprocess
import sys

import pytest

from byol_jax import host_memory

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), 'mallinfo2'),
    reason='asks glibc 2.33 or newer')

# How much is mapped apart from the heap, after 64 MB are taken.
_CODE = """
import ctypes, sys
from byol_jax import host_memory
class Info(ctypes.Structure):
  _fields_ = [(name, ctypes.c_size_t) for name in (
      'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks',
      'uordblks', 'fordblks', 'keepcost')]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
if sys.argv[1] == 'keep':
  host_memory.keep()
before = libc.mallinfo2()
block = libc.malloc(2**26)
mapped = libc.mallinfo2().hblkhd - before.hblkhd
libc.free(block)
print(mapped >= 2**26, libc.mallinfo2().arena - before.arena >= 2**26)
"""


def _mapped_and_kept(argument, **environment):
  names = ('MALLOC_TRIM_THRESHOLD_', 'MALLOC_TOP_PAD_', 'MALLOC_MMAP_MAX_')
  clean = {k: v for k, v in os.environ.items() if k not in names}
  done = subprocess.run(
      [sys.executable, '-c', _CODE, argument], env=clean | environment,
      capture_output=True, text=True, check=True)
  return done.stdout.split()


def test_what_is_freed_is_kept():
  assert _mapped_and_kept('leave') == ['True', 'False']
  assert _mapped_and_kept('keep') == ['False', 'True']


def test_the_environment_has_the_last_word():
  kept = _mapped_and_kept('keep', MALLOC_MMAP_MAX_='65536')
  assert kept == ['True', 'False']


_GIVE_BACK = """
import ctypes, pathlib, re
from byol_jax import host_memory
def resident():
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(r'RssAnon:\\s+(\\d+)', status).group(1))
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
host_memory.keep()
blocks = [libc.malloc(2**16) for _ in range(2**10)]
for block in blocks:
  ctypes.memset(ctypes.c_void_p(block), 1, 2**16)
full = resident()
for block in blocks[:-1]:  # the last is above them all
  libc.free(block)
kept = resident()
host_memory.give_back()
print(full - kept, kept - resident())
"""


def test_what_is_free_is_given_back():
  done = subprocess.run(
      [sys.executable, '-c', _GIVE_BACK], capture_output=True, text=True,
      check=True)
  at_once, given_back = map(int, done.stdout.split())
  assert at_once < 4 * 1024  # kB
  assert given_back > 60 * 1024


_ANEW = """
import os, pathlib, sys
from byol_jax import host_memory
if 'jax' in sys.argv:
  sys.modules['jax'] = None
if 'traced' in sys.argv:
  sys.settrace(lambda *_: None)
if 'embedded' in sys.argv:
  sys.executable = ''
if 'session' in sys.argv:
  sys.ps1 = '>>> '
os.confstr = lambda _: os.environ['LIBRARY']
host_memory._SYSTEM = pathlib.Path(sys.argv[1])
print(os.getpid(), os.environ.get('GLIBC_TUNABLES', ''))
host_memory.start_with_large_pages()
print('same command', sys.argv[2:])
"""


def _starts(tmp_path, *arguments, system='always [madvise] never', by=('-c',),
            **kwargs):
  """The tunables of each start of one process."""
  (tmp_path / 'enabled').write_text(system)
  in_time = by[-1] == '-c'
  done = subprocess.run(
      [sys.executable, *by, *([_ANEW] if in_time else []),
       str(tmp_path / 'enabled'), *arguments],
      env=os.environ | {'GLIBC_TUNABLES': '', 'PYTHONUNBUFFERED': '',
                        'LIBRARY': 'glibc 2.35'} | kwargs,
      input=None if in_time else _ANEW, capture_output=True, text=True,
      check=True, timeout=60)
  *starts, last = done.stdout.splitlines()
  assert last == f'same command {list(arguments)}'
  numbers, tunables = zip(*(line.split(' ') for line in starts), strict=True)
  assert len(set(numbers)) == 1
  return list(tunables)


@pytest.mark.parametrize('given', ['', 'glibc.malloc.tcache_count=9'])
def test_a_process_starts_anew_once(given, tmp_path):
  asked = ':'.join(filter(None, (given, 'glibc.malloc.hugetlb=1')))
  assert _starts(tmp_path, 'a b', '--c', GLIBC_TUNABLES=given) == [given, asked]


@pytest.mark.parametrize(('arguments', 'kwargs'), [
    (('a',), {'system': '[always] madvise never'}),
    (('a',), {'system': 'always madvise [never]'}),
    (('a',), {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0'}),
    (('jax',), {}),
    (('traced',), {}),
    (('session',), {}),
    (('a',), {'LIBRARY': 'glibc 2.34'}),
    (('a',), {'LIBRARY': ''}),
    (('embedded',), {}),
    (('a',), {'by': ('-',)}),
    (('a',), {'by': ('-u', '-')}),
    (('a',), {'by': ('/dev/stdin',)})])
def test_or_goes_on_as_it_is(arguments, kwargs, tmp_path):
  assert _starts(tmp_path, *arguments, **kwargs) == [
      kwargs.get('GLIBC_TUNABLES', '')]


_CHILD = """
import multiprocessing, os, sys
from byol_jax import host_memory, jobs
host_memory._given_when_asked = lambda: True
def work():
  jobs.run(lambda _: print('the job'))
if __name__ == '__main__':
  print('the parent', flush=True)
  child = multiprocessing.get_context(sys.argv[1]).Process(target=work)
  sys.argv[1:] = []
  child.start()
  child.join()
  sys.exit(child.exitcode)
"""


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_a_child_is_not_its_parent(method, tmp_path):
  (tmp_path / 'program.py').write_text(_CHILD)
  done = subprocess.run(
      [sys.executable, str(tmp_path / 'program.py'), method],
      env=os.environ | {'GLIBC_TUNABLES': ''}, capture_output=True, text=True,
      timeout=60)
  assert (done.returncode, done.stdout) == (0, 'the parent\nthe job\n'), done


@pytest.mark.parametrize('closed', ['>&-', '2>&-'])
def test_a_job_whose_output_is_closed(closed, tmp_path):
  code = """
from byol_jax import host_memory, jobs
host_memory._given_when_asked = lambda: True
jobs.run(lambda _: open('done', 'w'))
"""
  subprocess.run(
      ['bash', '-c', f'"$0" -c "$1" {closed}', sys.executable, code],
      cwd=tmp_path, check=True, timeout=60,
      env=os.environ | {'GLIBC_TUNABLES': '',
                        'PYTHONPATH': os.pathsep.join(sys.path)})
  assert (tmp_path / 'done').exists()


def test_a_system_that_does_not_say(tmp_path, monkeypatch):
  monkeypatch.setattr(host_memory, '_SYSTEM', tmp_path / 'none')
  assert not host_memory._given_when_asked()


_ADVISED = """
import ctypes, pathlib, re
from byol_jax import jobs
def main(_):
  libc = ctypes.CDLL(None)
  libc.malloc.restype = ctypes.c_void_p
  start = libc.malloc(2**27)
  end, advised = start + 2**27, 0
  maps = pathlib.Path('/proc/self/smaps').read_text()
  for low, high, flags in re.findall(
      r'^(\\w+)-(\\w+) .*?^VmFlags: (.*?)$', maps, re.MULTILINE | re.DOTALL):
    if 'hg' in flags.split():
      advised += max(0, min(end, int(high, 16)) - max(start, int(low, 16)))
  print(advised)
jobs.run(main)
"""


@pytest.mark.skipif(
    not host_memory._given_when_asked(),
    reason='asks for a system that gives them, and a glibc that asks')
@pytest.mark.parametrize('tunables', [
    {}, {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0'}])
def test_jobs_ask_for_large_pages(tunables):
  """How many it is given is the system's: 56 of 128 MB, once, of a full one."""
  environment = {
      k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
  done = subprocess.run(
      [sys.executable, '-c', _ADVISED], env=environment | tunables,
      capture_output=True, text=True, check=True, timeout=60)
  asked = int(done.stdout)
  if tunables:
    assert asked == 0
  else:
    assert asked > 2**27 - 2**21  # but for a page at an end

"""What orbax leaves behind is left out; everything else is shown."""

import subprocess
import sys

_CODE = '''
import asyncio, gc, sys
from byol_jax import quiet_orbax
quiet_orbax.quieten()
loop = asyncio.new_event_loop()
loop.close()

class Late:
  def __init__(self, fn):
    self._fn = fn
  def __del__(self):  # what it raises has nobody to go to
    self._fn()

def fail():
  raise ValueError('of ours')

Late(lambda: loop.call_soon_threadsafe(print))
Late(fail)
gc.collect()
sys.excepthook(RuntimeError, RuntimeError('Event loop is closed'), None)
loop.call_soon_threadsafe(print)
'''


def test_only_reports_to_a_closed_loop_are_left_out():
  done = subprocess.run(
      [sys.executable, '-c', _CODE], capture_output=True, text=True)
  assert done.returncode == 1
  assert 'ValueError: of ours' in done.stderr
  assert 'loop is closed' not in done.stderr

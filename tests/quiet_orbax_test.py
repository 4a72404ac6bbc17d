"""What orbax leaves behind is left out; everything else is shown."""

import subprocess
import sys

from byol_jax import quiet_orbax

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


def test_only_what_orbax_leaves_behind_is_not_shown(monkeypatch):
  shown = []
  monkeypatch.setattr(sys, 'excepthook', lambda *found: shown.append(found[1]))
  monkeypatch.setattr(sys, 'unraisablehook', shown.append)
  quiet_orbax.quieten()
  error = RuntimeError('Event loop is closed')
  sys.excepthook(RuntimeError, error, None)
  assert not shown
  for other in (RuntimeError('out of memory'), ValueError('ours')):
    sys.excepthook(type(other), other, None)
  assert [str(error) for error in shown] == ['out of memory', 'ours']

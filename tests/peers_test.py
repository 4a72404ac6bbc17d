"""Who is to blame, by what the processes said of themselves."""

from byol_jax import peers


def _peer(heard=0.0, moved=0.0, progress=5, code=None, why=''):
  said = {'progress': progress, 'doing': f'step {progress}', 'code': code,
          'why': why}
  return peers.Peer('a host, pid 7', said, heard, moved)


def _verdict(*others, me=None, now=100.0):
  known = dict(enumerate((me or _peer(heard=now, moved=now), *others)))
  return peers.verdict(known, 0, now=now, timeout_secs=10, hang_secs=50)


def test_all_well():
  assert _verdict(_peer(heard=95, moved=95), _peer(heard=91, moved=60)) is None
  assert peers.verdict({}, 0, now=0, timeout_secs=10, hang_secs=50) is None


def test_one_that_is_not_heard_of():
  code, why = _verdict(_peer(heard=99, moved=99), _peer(heard=89, moved=89))
  assert code == 75
  assert why == (
      'process 2 (a host, pid 7) has not been heard of for 11 s, after step 5')


def test_one_that_the_others_wait_for():
  waiting = _peer(heard=99, moved=45, progress=6)
  hanging = _peer(heard=99, moved=40, progress=5)
  code, why = _verdict(hanging, me=waiting)
  assert code == 75
  assert why.startswith(
      'process 1 (a host, pid 7) hangs: it has not moved for 60 s, in step 5')
  # The one that hangs knows too.
  code, why = _verdict(waiting, me=hanging)
  assert why.startswith('process 0 (a host, pid 7) hangs')


def test_nobody_hangs_where_nobody_is_further():
  """A long compile, or a long wait for the same disk."""
  slow = _peer(heard=99, moved=1)
  assert _verdict(slow, me=slow) is None


def test_one_that_left_with_an_error():
  code, why = _verdict(_peer(code=1, why='no such file'))
  assert (code, why) == (1, 'process 1 (a host, pid 7) left: no such file')
  code, _ = _verdict(_peer(code=75, why='SIGTERM'))
  assert code == 75


def test_one_that_is_done_is_neither_gone_nor_waited_for():
  done = _peer(heard=1, moved=1, progress=9, code=0)
  assert _verdict(done, me=_peer(heard=100, moved=1)) is None


class _Service:
  """What the coordination service does, in a dictionary."""

  def __init__(self):
    self.entries = {}

  def key_value_set(self, key, value, allow_overwrite):
    assert allow_overwrite
    self.entries[key] = value

  def key_value_dir_get(self, prefix):
    return [e for e in self.entries.items() if e[0].startswith(prefix)]


def test_processes_hear_of_each_other(monkeypatch):
  monkeypatch.setattr(peers.threading.Thread, 'start', lambda _: None)
  service = _Service()
  a, b = (peers.Watch(service, i, timeout_secs=10, hang_secs=50)
          for i in range(2))
  a._exchange()
  b.advance('step 1')
  b._exchange()
  a._exchange()
  assert a._peers[1].said['doing'] == 'step 1'
  moved = a._peers[1].moved
  b._exchange()
  a._exchange()
  assert a._peers[1].moved == moved < a._peers[1].heard
  b.leave(1, 'no such file')
  a._exchange()
  assert a._peers[1].said['why'] == 'no such file'

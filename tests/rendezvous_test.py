"""How processes meet, and what is said where some do not come."""

import concurrent.futures
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from byol_jax import config as config_lib
from byol_jax import rendezvous
from byol_jax import stopping
from tests import processes

_JOB = '''
from byol_jax import jobs, processes
jobs.run(lambda _: print('met'), processes.join)
'''


def _start(address, number, secs=2):
  return subprocess.Popen(
      [sys.executable, '-c', _JOB, f'--coordinator={address}',
       '--num_processes=2', f'--process_id={number}',
       f'--join_timeout_secs={secs}'],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'})


def _said(job):
  """Its exit code and its one line."""
  with job:
    out, err = job.communicate(timeout=100)
  (line,) = (out + err).splitlines()
  return job.returncode, line


@pytest.mark.parametrize('number, missing', [
    (0, 'process 1 did not come'), (1, 'process 0 was not at 127.0.0.1:')])
def test_a_process_that_is_alone(number, missing):
  code, line = _said(_start(f'127.0.0.1:{processes.free_port()}', number))
  assert code == stopping.RUN_AGAIN
  assert line.startswith(
      f'the processes did not find each other in 2 seconds ({missing}')


@pytest.mark.parametrize('number', [0, 1])
def test_a_host_that_there_is_not(number):
  code, line = _said(_start('no.such.host.invalid:4321', number))
  assert code == 1
  assert line.startswith(
      'error: --coordinator=no.such.host.invalid:4321: the host cannot be '
      'resolved (')


def test_a_port_that_is_in_use():
  with socket.create_server(('127.0.0.1', 0)) as other:
    port = other.getsockname()[1]
    code, line = _said(_start(f'127.0.0.1:{port}', 0))
  assert code == 1
  assert line == (
      f'error: process 0 cannot listen at port {port} of --coordinator '
      '(Address already in use): choose another one')


@pytest.mark.parametrize('number', [0, 1])
def test_ctrl_c_while_they_look_for_each_other(number):
  port = processes.free_port()
  job = _start(f'127.0.0.1:{port}', number, secs=100)
  if number:
    with socket.create_server(('127.0.0.1', port)) as listener:
      listener.settimeout(60)
      listener.accept()[0].close()  # it is there
  else:
    _connect(port).close()
  job.send_signal(signal.SIGINT)
  assert _said(job) == (75, 'SIGINT: there was nothing to save')


def _connect(port):
  until = time.monotonic() + 60
  while True:
    try:
      return socket.create_connection(('127.0.0.1', port))
    except OSError:
      assert time.monotonic() < until
      time.sleep(0.1)


def test_ctrl_c_while_jax_looks_for_the_others():
  """In C++, which nothing interrupts."""
  port = processes.free_port()
  job = _start(f'127.0.0.1:{port}', 0, secs=100)
  rendezvous.meet(f'127.0.0.1:{port}', 2, 1, timeout_secs=60)
  _connect(port).close()  # JAX listens
  time.sleep(1)
  job.send_signal(signal.SIGINT)
  assert _said(job) == (75, 'SIGINT: there was nothing to save')


def test_one_that_is_lost_between_the_meeting_and_jax():
  """JAX dumps its stack; the last line and the code are ours."""
  port = processes.free_port()
  with _start(f'127.0.0.1:{port}', 0, secs=5) as job:
    rendezvous.meet(f'127.0.0.1:{port}', 2, 1, timeout_secs=60)
    _, err = job.communicate(timeout=100)
  assert job.returncode == stopping.RUN_AGAIN
  assert err.splitlines()[-1].startswith(
      'error: the processes did not find each other in 5 seconds; run the same')


@pytest.mark.parametrize('address', [
    'host', ':4321', 'host:', 'host:port', 'host:0', 'host:65536'])
def test_an_address_that_is_none(address):
  with pytest.raises(config_lib.ConfigError, match='expected HOST:PORT'):
    rendezvous.parse(address)


def test_an_address_of_version_6():
  assert rendezvous.parse('[::1]:4321') == ('::1', 4321)


def _meet(port, number, count):
  rendezvous.meet(f'localhost:{port}', count, number, timeout_secs=30)
  return number


def test_all_are_let_go_together_whoever_comes_first(monkeypatch):
  monkeypatch.setattr(rendezvous, '_HELLO_SECS', 0.5)
  port = processes.free_port()
  with concurrent.futures.ThreadPoolExecutor() as pool:
    came = [pool.submit(_meet, port, 2, 3)]
    time.sleep(0.2)
    came.append(pool.submit(_meet, port, 0, 3))
    for words in b'', b'GET / HTTP/1.1\r\n\r\n', b'\xff 3':  # none of ours
      with contextlib.suppress(OSError):
        with socket.create_connection(('127.0.0.1', port)) as other:
          other.sendall(words)
    time.sleep(0.5)
    assert not any(future.done() for future in came)
    came.append(pool.submit(_meet, port, 1, 3))
    assert {future.result(timeout=30) for future in came} == {0, 1, 2}
  socket.create_server(('', port)).close()  # which is free for JAX


def test_processes_of_another_number():
  port = processes.free_port()
  with concurrent.futures.ThreadPoolExecutor() as pool:
    first = pool.submit(_meet, port, 0, 2)
    _connect(port).close()  # it is there
    other = pool.submit(
        rendezvous.meet, f'127.0.0.1:{port}', 3, 1, timeout_secs=1)
    with pytest.raises(config_lib.ConfigError, match=(
        'process 1 was given --num_processes=3, process 0 2')):
      first.result(timeout=30)
    with pytest.raises(stopping.UnfinishedError):
      other.result(timeout=30)

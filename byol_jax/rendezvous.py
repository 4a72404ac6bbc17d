"""The processes of a job meet before JAX does, whose way to miss some is abort.

Process 0 listens at the coordinator's address. Each of the others says there
which one it is, and waits until all are there; then the port is JAX's.
"""

import contextlib
import os
import socket
import time

from byol_jax import config as config_lib
from byol_jax import stopping

_PAUSE_SECS = 0.5
# Who connects and says nothing is none of ours.
_HELLO_SECS = 5.0
_GO = b'go'


def meet(
    address: str, num_processes: int, process_id: int, timeout_secs: float
) -> None:
  """Returns when all processes of the job are there.

  Args:
    address: HOST:PORT of process 0.
    num_processes: of the job.
    process_id: of this one, from 0.
    timeout_secs: for all to come.

  Raises:
    ConfigError: for an address that cannot be the coordinator's.
    UnfinishedError: not all have come in time.
  """
  host, port = parse(address)
  _check_host(host, address)
  deadline = time.monotonic() + timeout_secs
  if process_id:
    found = _report(host, port, process_id, num_processes, deadline)
    missing = '' if found else f'process 0 was not at {address}'
  else:
    absent = _await(port, num_processes, deadline)
    missing = absent and f'process {", ".join(map(str, absent))} did not come'
  if missing:
    raise stopping.UnfinishedError(
        f'the processes did not find each other in {timeout_secs:g} seconds '
        f'({missing}): start all of them, with one --coordinator that every '
        'machine can reach')


def parse(address: str) -> tuple[str, int]:
  """The host and the port of HOST:PORT.

  Raises:
    ConfigError: if it is none.
  """
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise config_lib.ConfigError(
        f'--coordinator={address}, expected HOST:PORT, a port from 1 to '
        f'{2**16 - 1}')
  return host.removeprefix('[').removesuffix(']'), int(port)


def _check_host(host: str, address: str) -> None:
  try:
    socket.getaddrinfo(host, None)
  except (OSError, UnicodeError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise config_lib.ConfigError(
        f'--coordinator={address}: the host cannot be resolved ({reason})'
    ) from error


def _await(port: int, num_processes: int, deadline: float) -> list[int]:
  """Lets all go once they are there; who is not, at the deadline."""
  there: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    listener = stack.enter_context(_listen(port))
    while absent := sorted(set(range(1, num_processes)) - set(there)):
      listener.settimeout(max(deadline - time.monotonic(), 0.01))
      try:
        peer, _ = listener.accept()
      except TimeoutError:
        return absent
      stack.enter_context(peer)
      number = _hear(peer, num_processes)
      if number is not None:
        there[number] = peer
    listener.close()  # before they come to look for JAX there
    for peer in there.values():
      with contextlib.suppress(OSError):  # it is gone again: JAX will see
        peer.sendall(_GO)
  return []


def _listen(port: int) -> socket.socket:
  """As JAX will, at all of this machine's addresses."""
  both = socket.has_dualstack_ipv6()
  try:
    return socket.create_server(
        ('', port), family=socket.AF_INET6 if both else socket.AF_INET,
        backlog=1024, dualstack_ipv6=both)
  except OSError as error:
    raise config_lib.ConfigError(
        f'process 0 cannot listen at port {port} of --coordinator '
        f'({os.strerror(error.errno)}): choose another one') from error


def _hear(peer: socket.socket, num_processes: int) -> int | None:
  """Which process this is; None: it is none."""
  peer.settimeout(_HELLO_SECS)
  try:
    number, count = map(int, peer.recv(64).split(b' '))
  except (OSError, ValueError):
    return None
  if count != num_processes:
    raise config_lib.ConfigError(
        f'process {number} was given --num_processes={count}, process 0 '
        f'{num_processes}: expected the same')
  return number


def _report(
    host: str, port: int, process_id: int, num_processes: int,
    deadline: float) -> bool:
  """Says that it is there; whether it was let go before the deadline."""
  while (left := deadline - time.monotonic()) > 0:
    # Process 0 may be slower to start, or start anew.
    with contextlib.suppress(OSError):
      with socket.create_connection((host, port), timeout=left) as coordinator:
        coordinator.sendall(f'{process_id} {num_processes}'.encode())
        if coordinator.recv(len(_GO)) == _GO:
          return True
    time.sleep(_PAUSE_SECS)
  return False

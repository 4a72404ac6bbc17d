"""The memory of a device that a compiled step takes, and XLA's refusals."""

import dataclasses
import re

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_SIZE = r'([\d.]+)([KMGT]?)i?B?'
# Before, and after, XLA has placed every buffer.
_REFUSALS = (
    re.compile(
        rf'required for .*?\({_SIZE}\) exceeds available HBM \({_SIZE}\)',
        re.DOTALL),
    re.compile(rf'Used {_SIZE} of {_SIZE} hbm', re.IGNORECASE),
)

# The loop keeps so many batches on their way beside the one in use: see
# `training.devices.prefetch`.
_WAITING_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device, as XLA has laid them out, padding included.

  Attributes:
    limit: what a program may take.
    state: parameters, statistics and optimizer; given, and taken back.
    batch: the device's share of one batch.
    temporaries: what the step holds at its fullest beside its arguments.
    outputs: metrics; what comes out and is not the state.
    code: the program.
  """

  limit: int
  state: int
  batch: int
  temporaries: int
  outputs: int
  code: int

  @property
  def waiting(self) -> int:
    """The batches that the loop has sent ahead."""
    return _WAITING_BATCHES * self.batch

  @property
  def peak(self) -> int:
    """All of it."""
    return (
        self.state + self.batch + self.waiting + self.temporaries
        + self.outputs + self.code)

  @property
  def fits(self) -> bool:
    return self.peak <= self.limit


@dataclasses.dataclass(frozen=True)
class Refusal:
  """XLA would not compile a program, for want of memory.

  Attributes:
    needed: bytes that it would take, at the least.
    limit: bytes that there are.
  """

  needed: int
  limit: int


def read_refusal(message: str) -> Refusal | None:
  """What a compiler's error says of memory; None where it is another error."""
  for pattern in _REFUSALS:
    found = pattern.search(message)
    if found:
      needed, needed_unit, limit, limit_unit = found.groups()
      return Refusal(
          needed=round(float(needed) * _UNITS[needed_unit]),
          limit=round(float(limit) * _UNITS[limit_unit]))
  return None

"""The text of a compiled program (HLO), as instructions with their arrays."""

from collections.abc import Iterator
import dataclasses
import math
import re

import numpy as np

_BYTES = {
    'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'f16': 2, 'bf16': 2,
    's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8, 'c64': 8,
    'c128': 16}

# `%name (arguments) -> results {` opens a computation, `}` closes it.
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$')
# `%name = shape operation(operands), attributes`. A tuple's shape has spaces.
_INSTRUCTION = re.compile(
    r'^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)')
_CALLED = re.compile(
    r'(?:calls|to_apply|body|condition|branch_computations|'
    r'called_computations|true_computation|false_computation)='
    r'(?:\{([^}]*)\}|(%?[\w.\-]+))')
# `{{0,1},{2,3}}`; or `[2,2]<=[4]`, the numbers up to 4 in two rows; or
# `[2,2]<=[2,2]T(1,0)`, those of an array that is transposed first.
_GROUPS = re.compile(
    r'replica_groups=(?:\{\{([\d,]+)\}'
    r'|\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?)')
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r'condition=%?([\w.\-]+)')
_INTEGER = re.compile(r'= s32\[\](?:\{[^}]*\})? constant\((\d+)\)')
# `f32[2,64]{1,0:T(2,128)S(1)}`: type, dimensions, and the memory that it lies
# in, which is the device's main memory where none is named.
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?')
_ELSEWHERE = re.compile(r'S\([1-9]\d*\)')


@dataclasses.dataclass(frozen=True)
class Array:
  """A part of a shape.

  Attributes:
    size: bytes, without padding.
    is_scalar: whether it has no dimensions.
    in_main_memory: whether it lies there, and not on the chip.
  """

  size: int
  is_scalar: bool
  in_main_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A line of a program.

  Attributes:
    name: unique in the program.
    operation: as `fusion` or `all-reduce-start`.
    arrays: of its result; several where that is a tuple.
    operands: names.
    called: names of computations.
    trips: how often it runs them: of a loop's body more than once.
    group: the first devices that a collective takes together; None is all.
  """

  name: str
  operation: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  called: tuple[str, ...]
  trips: int = 1
  group: tuple[int, ...] | None = None


class Program:
  """A module's computations, each a list of instructions."""

  def __init__(self, text: str):
    """Reads the text of a compiled module."""
    self.entry, lines = _split(text)
    self.computations = {
        name: [i for i in (_read(line, lines) for line in body) if i]
        for name, body in lines.items()}

  def executed(
      self, name: str | None = None, times: int = 1,
      within: tuple[str, ...] | None = None,
  ) -> Iterator[tuple[Instruction, int]]:
    """Yields what one run executes, and how often.

    Args:
      name: of a computation; None is the entry.
      times: that it is executed.
      within: operations whose computations are gone into; None is all.
    """
    for instruction in self.computations.get(name or self.entry, ()):
      yield instruction, times
      if within is None or instruction.operation in within:
        for called in instruction.called:
          yield from self.executed(called, times * instruction.trips, within)


def _split(text: str) -> tuple[str, dict[str, list[str]]]:
  """Returns the entry's name, and every computation's lines by its name."""
  entry, computations, lines = '', {}, []
  for line in text.splitlines():
    opened = _COMPUTATION.match(line)
    if opened:
      is_entry, name = opened.groups()
      lines = computations.setdefault(name, [])
      entry = name if is_entry else entry
    else:
      lines.append(line)
  return entry, computations


def _read(
    line: str, computations: dict[str, list[str]]) -> Instruction | None:
  found = _INSTRUCTION.match(line)
  if not found:
    return None
  name, shape, operation, operands = found.groups()
  return Instruction(
      name, operation, _arrays(shape),
      tuple(part.strip().split(' ')[-1].lstrip('%')
            for part in operands.split(',') if part.strip()),
      tuple(called.strip().lstrip('%')
            for many, one in _CALLED.findall(line)
            for called in (many or one).split(',')),
      _trips(line, computations) if operation == 'while' else 1,
      _first_group(line))


def _arrays(shape: str) -> tuple[Array, ...]:
  return tuple(
      Array(
          _BYTES[dtype] * math.prod(int(n) for n in dims.split(',') if n),
          not dims, not _ELSEWHERE.search(layout))
      for dtype, dims, layout in _ARRAY.findall(shape) if dtype in _BYTES)


def _first_group(line: str) -> tuple[int, ...] | None:
  found = _GROUPS.search(line)
  if not found:
    return None
  members, *rows, dims, order = found.groups()
  if members:
    return _integers(members)
  devices = np.arange(math.prod(_integers(dims))).reshape(_integers(dims))
  if order:
    devices = devices.transpose(_integers(order))
  return tuple(devices.reshape([int(n) for n in rows])[0].tolist())


def _integers(text: str) -> tuple[int, ...]:
  return tuple(map(int, text.split(',')))


def _trips(line: str, computations: dict[str, list[str]]) -> int:
  """How often a loop turns: said beside it, or the bound it counts up to."""
  said = _TRIP_COUNT.search(line)
  if said:
    return int(said.group(1))
  condition = _CONDITION.search(line)
  bounds = [
      int(bound) for text in computations.get(condition.group(1), ())
      for bound in _INTEGER.findall(text)] if condition else []
  return bounds[0] if len(bounds) == 1 else 1

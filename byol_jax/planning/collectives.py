"""The collectives of a compiled program, read from its text (HLO)."""

from collections.abc import Iterator
import dataclasses
import math
import re

_BYTES = {
    'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'f16': 2, 'bf16': 2,
    's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8, 'c64': 8,
    'c128': 16}

KINDS = (
    'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all',
    'collective-permute', 'collective-broadcast')

# `%name (arguments) -> results {` opens a computation, `}` closes it.
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$')
# `%name = shape operation(operands), attributes`; a tuple's shape has spaces,
# and comments that number its parts.
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) '
                          r'([\w\-]+)\(')
_CALLED = re.compile(
    r'(?:calls|to_apply|body|condition|branch_computations|'
    r'called_computations|true_computation|false_computation)='
    r'(?:\{([^}]*)\}|(%?[\w.\-]+))')
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r'condition=%?([\w.\-]+)')
_INTEGER = re.compile(r'= s32\[\](?:\{[^}]*\})? constant\((\d+)\)')
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,]*)\]')


@dataclasses.dataclass(frozen=True)
class Collective:
  """What one kind of collective does in a step.

  Attributes:
    kind: one of `KINDS`.
    count: how often; collectives that XLA has merged count as one.
    result_bytes: of one device's results, over all of them.
  """

  kind: str
  count: int
  result_bytes: int


def read_collectives(hlo: str) -> list[Collective]:
  """Counts the collectives that one run of a program executes.

  Those in the body of a loop count as often as it turns, where the text says
  how often that is, and once where it does not.

  Args:
    hlo: the text of a compiled module.

  Returns:
    A kind each, the largest first.
  """
  entry, computations = _split(hlo)
  totals: dict[str, list[int]] = {}
  for kind, size, times in _executed(entry, computations, 1):
    total = totals.setdefault(kind, [0, 0])
    total[0] += times
    total[1] += times * size
  return sorted(
      (Collective(kind, *total) for kind, total in totals.items()),
      key=lambda c: -c.result_bytes)


def _split(hlo: str) -> tuple[str, dict[str, list[str]]]:
  """Returns the entry's name, and every computation's lines by its name."""
  entry, computations, lines = '', {}, []
  for line in hlo.splitlines():
    opened = _COMPUTATION.match(line)
    if opened:
      is_entry, name = opened.groups()
      lines = computations.setdefault(name, [])
      entry = name if is_entry else entry
    else:
      lines.append(line)
  return entry, computations


def _executed(
    name: str, computations: dict[str, list[str]], times: int
) -> Iterator[tuple[str, int, int]]:
  """Yields (kind, bytes, times) of a computation and those that it calls."""
  for line in computations.get(name, ()):
    found = _INSTRUCTION.match(line)
    if not found:
      continue
    shape, operation = found.groups()
    kind = operation.removesuffix('-start')
    if kind in KINDS:
      yield kind, _result_bytes(shape, operation), times
      continue
    turns = times
    if operation == 'while':
      turns *= _trip_count(line, computations)
    for many, one in _CALLED.findall(line):
      for called in (many or one).split(','):
        yield from _executed(called.strip().lstrip('%'), computations, turns)


def _trip_count(line: str, computations: dict[str, list[str]]) -> int:
  """How often a loop turns: said beside it, or the bound it counts up to."""
  said = _TRIP_COUNT.search(line)
  if said:
    return int(said.group(1))
  condition = _CONDITION.search(line)
  bounds = [
      int(bound) for text in computations.get(condition.group(1), ())
      for bound in _INTEGER.findall(text)] if condition else []
  return bounds[0] if len(bounds) == 1 else 1


def _result_bytes(shape: str, operation: str) -> int:
  sizes = [
      _BYTES.get(dtype, 0) * math.prod(int(n) for n in dims.split(',') if n)
      for dtype, dims in _ARRAY.findall(shape)]
  if operation == 'all-gather-start':  # (operands, as many results)
    return sum(sizes[len(sizes) // 2:])
  if operation == 'collective-permute-start':  # (operand, result, context)
    return sizes[1]
  return sum(sizes)

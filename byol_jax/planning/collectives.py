"""The collectives of a compiled program."""

import dataclasses

from byol_jax.planning import hlo

KINDS = (
    'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all',
    'collective-permute', 'collective-broadcast')


@dataclasses.dataclass(frozen=True)
class Collective:
  """What one kind of collective does in a step.

  Attributes:
    kind: one of `KINDS`.
    count: how often; collectives that XLA has merged count as one.
    result_bytes: of one device's results, over all of them.
    group: devices that take part in each together, of those that several
      groups have the first; None is all.
  """

  kind: str
  count: int
  result_bytes: int
  group: tuple[int, ...] | None = None


def read_collectives(program: hlo.Program) -> list[Collective]:
  """Counts the collectives that one run of a program executes.

  Those in the body of a loop count as often as it turns, where the text says
  how often that is, and once where it does not.

  Args:
    program: compiled for one device of several.

  Returns:
    One for each kind and first group, the largest first.
  """
  totals: dict[tuple[str, tuple[int, ...] | None], list[int]] = {}
  for instruction, times in program.executed():
    kind = instruction.operation.removesuffix('-start')
    if kind in KINDS:
      total = totals.setdefault((kind, instruction.group), [0, 0])
      total[0] += times
      total[1] += times * _result_bytes(instruction)
  return sorted(
      (Collective(kind, *total, group)
       for (kind, group), total in totals.items()),
      key=lambda c: -c.result_bytes)


def _result_bytes(instruction: hlo.Instruction) -> int:
  sizes = [array.size for array in instruction.arrays]
  if instruction.operation == 'all-gather-start':
    return sum(sizes[len(sizes) // 2:])  # (operands, as many results)
  if instruction.operation == 'collective-permute-start':
    return sizes[1]  # (operand, result, context)
  return sum(sizes)

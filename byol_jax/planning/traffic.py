"""What a compiled program reads from a device's main memory, and writes there.

XLA's own count of bytes accessed does not tell main memory from the memory on
the chip, which on newer TPUs holds many megabytes; of a ResNet-50's step on
v5e about half of it is on-chip. The text of the program does tell: an array
elsewhere is marked so.
"""

from byol_jax.planning import hlo

# These run other computations, whose own instructions count.
_CALLERS = ('while', 'conditional', 'call')
# These name arrays, and move none.
_FREE = (
    *_CALLERS, 'parameter', 'constant', 'tuple', 'get-tuple-element',
    'bitcast', 'after-all', 'partition-id', 'replica-id', 'opt-barrier',
    'add-dependency')
_MOVES = ('copy-start', 'slice-start')


def main_memory_bytes(program: hlo.Program) -> int:
  """Bytes that one run must move between main memory and the chip.

  Every operation reads each of its operands once and writes its results, if
  they lie in main memory; a fusion keeps to itself what is within it. Padding
  is left out. So is what an operation reads twice. An operation that reads a
  part of its operand is taken to read it all.
  """
  total = 0
  arrays = {
      instruction.name: instruction.arrays
      for computation in program.computations.values()
      for instruction in computation}
  for instruction, times in program.executed(within=_CALLERS):
    operation = instruction.operation
    if operation in _FREE or operation.endswith('-done'):
      continue
    if operation in _MOVES:
      total += times * _moved(instruction)
      continue
    touched = [
        *instruction.arrays,
        *(a for name in instruction.operands for a in arrays.get(name, ()))]
    total += times * sum(a.size for a in touched if a.in_main_memory)
  return total


def _moved(instruction: hlo.Instruction) -> int:
  """Of a copy of an array, or of a slice of it; both ends are in the shape."""
  ends = [a for a in instruction.arrays if not a.is_scalar]
  if not ends:
    return 0
  return min(a.size for a in ends) * sum(a.in_main_memory for a in ends)

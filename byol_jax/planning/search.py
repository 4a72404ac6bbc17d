"""The largest batch of a device whose step fits its memory."""

from collections.abc import Callable
import dataclasses
import math

from byol_jax.planning import programs

# A device works on multiples of eight rows; batches between cost as much.
_GRAIN = 8

_LEAP = 1.25

# Of the result; a compile takes minutes.
_PRECISION = 1 / 32


@dataclasses.dataclass(frozen=True)
class Found:
  """What a search ended with.

  Attributes:
    largest: images of a device in a step that fit; 0 if none was seen to.
    too_large: the smallest that was seen not to; None if all fitted.
    compiles: how many were tried.
    grain: only multiples of it were.
  """

  largest: int
  too_large: int | None
  compiles: int
  grain: int

  def say(self, num_devices: int) -> str:
    """A sentence, for a slice of so many devices."""
    fits = (
        f'{self.largest} images of a device fit, a batch of '
        f'{self.largest * num_devices}' if self.largest else
        'no batch that was tried fits')
    if self.too_large is None:
      rest = 'more may'
    else:
      rest = f'{self.too_large} do not'
      if self.too_large - self.largest > self.grain:
        rest += '; what is between was not tried'
    return (
        f'{fits}; {rest} (multiples of {self.grain}, {self.compiles} '
        'compiles)')


def find_largest(
    compile_batch: Callable[[int], programs.Program], first: int, *,
    accumulation_steps: int, max_compiles: int) -> Found:
  """Looks for it, with few compiles.

  Memory grows about linearly in the batch, until XLA begins to compute things
  again rather than keep them. So the next guess is where the line through what
  is known meets the limit, and later halfway between what fits and what does
  not, until those are within a 32nd of each other.

  Args:
    compile_batch: of a device's images in a step.
    first: where to begin; the run's own.
    accumulation_steps: divides every batch that is tried.
    max_compiles: ends the search, if nothing else does.
  """
  grain = math.lcm(_GRAIN, accumulation_steps)
  largest, too_large, tried = 0, None, 0
  batch = max(first // grain, 1) * grain
  while tried < max_compiles:
    program = compile_batch(batch)
    tried += 1
    if program.fits:
      largest = batch
    else:
      too_large = batch
    if too_large is not None and (
        too_large - largest <= max(grain, _PRECISION * largest)):
      break
    batch = _next(program, batch, largest, too_large, grain)
  return Found(largest, too_large, tried, grain)


def _next(
    program: programs.Program, batch: int, largest: int,
    too_large: int | None, grain: int) -> int:
  """A multiple of `grain`, above `largest` and below `too_large`."""
  low = largest + grain
  guess = _where_line_meets_limit(program, batch)
  if too_large is None:
    # Where the line has been passed already, by recomputation, leap.
    guess = guess if guess >= low else _LEAP * largest
  else:
    if not low <= guess < too_large:
      guess = (largest + too_large) / 2
    guess = min(guess, too_large - grain)
  return max(low, int(guess) // grain * grain)


def _where_line_meets_limit(
    program: programs.Program, batch: int) -> float:
  """By the line through an empty batch, which takes state and code."""
  if program.memory is None:
    # What a refusal counts is temporaries, before anything is made smaller.
    refusal = program.refusal
    return batch * refusal.limit / refusal.needed
  memory = program.memory
  fixed = memory.state + memory.code
  slope = (memory.peak - fixed) / batch
  return (memory.limit - fixed) / max(slope, 1.0)

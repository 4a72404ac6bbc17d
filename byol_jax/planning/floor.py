"""The least time that a step can take, by a chip's published figures."""

from collections.abc import Sequence
import dataclasses

from byol_jax.planning import collectives as collectives_lib
from byol_jax.planning import slices


@dataclasses.dataclass(frozen=True)
class Floor:
  """Seconds of a step, if nothing else took any.

  Attributes:
    arithmetic: what must be computed, at the peak.
    memory: what the compiled operations move to and from the main memory, at
      its bandwidth; None where nothing was compiled.
    interconnect: what the collectives must send, over all of a chip's links.
      How long a collective takes to begin and to end is not known, and not
      counted.
  """

  arithmetic: float
  memory: float | None
  interconnect: float

  @property
  def seconds(self) -> float:
    """The largest: at best, they all happen at once."""
    return max(self.arithmetic, self.memory or 0.0, self.interconnect)

  @property
  def bound(self) -> str:
    """Which one that is."""
    times = dataclasses.asdict(self)
    return max(times, key=lambda name: times[name] or 0.0)


def find_floor(
    where: slices.Slice, *, flops: float, main_memory_bytes: float | None,
    collectives: Sequence[collectives_lib.Collective],
) -> Floor:
  """Divides work by speed.

  Args:
    where: the slice.
    flops: of one device in a step.
    main_memory_bytes: of one device in a step, or None.
    collectives: of a step.
  """
  chip = where.chip
  sent = sum(_sent_bytes(c, where) for c in collectives)
  return Floor(
      arithmetic=flops * chip.devices / chip.peak_flops,
      memory=None if main_memory_bytes is None
      else main_memory_bytes * chip.devices / chip.memory_bandwidth,
      interconnect=sent / chip.link_bandwidth)


def _sent_bytes(
    collective: collectives_lib.Collective, where: slices.Slice) -> float:
  """What a chip must send, at least, for one kind of collective.

  To reduce and hand back B bytes over n chips, each sends 2 (n - 1) / n of B;
  a half of it to do but the one, or the other. Two devices of one chip need
  no link; where they are in groups of their own, each group sends.
  """
  group = collective.group or range(where.num_devices)
  chips = len({device // where.chip.devices for device in group})
  groups_of_chip = where.chip.devices * chips // len(group)
  share = (chips - 1) / chips
  size = collective.result_bytes
  sent = {
      'all-reduce': 2 * share * size,
      'all-gather': share * size,
      # Its result is one device's part of what is reduced.
      'reduce-scatter': share * size * len(group),
      'all-to-all': share * size,
  }.get(collective.kind, size if chips > 1 else 0)
  return groups_of_chip * sent

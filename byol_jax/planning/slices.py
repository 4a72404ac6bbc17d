"""TPU slices by name: `v4:2x2x2` is eight v4 chips on two hosts."""

from collections.abc import Sequence
import dataclasses
import math
import re

from byol_jax.config import ConfigError
from byol_jax.planning import chips


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips that are rented, and wired, together.

  Attributes:
    chip: of which they are.
    shape: chips along each dimension.
  """

  chip: chips.Chip
  shape: tuple[int, ...]

  @property
  def name(self) -> str:
    return f'{self.chip.name}:{"x".join(map(str, self.shape))}'

  @property
  def host_shape(self) -> tuple[int, ...]:
    """The chips of each host."""
    if self.shape in self.chip.single_host_shapes:
      return self.shape
    return self.chip.host_shape

  @property
  def num_chips(self) -> int:
    return math.prod(self.shape)

  @property
  def num_devices(self) -> int:
    """As JAX counts them."""
    return self.num_chips * self.chip.devices

  @property
  def num_hosts(self) -> int:
    return self.num_chips // math.prod(self.host_shape)

  @property
  def devices_per_host(self) -> int:
    return self.num_devices // self.num_hosts


def parse_slices(names: Sequence[str]) -> list[Slice]:
  """Reads slices' names, each once.

  Raises:
    ConfigError: if there is none, or a name is that of no slice.
  """
  slices = list(dict.fromkeys(map(_parse, filter(None, names))))
  if not slices:
    raise ConfigError(
        '--topology names no slice; expected some like '
        '--topology=v4:2x2x2,v5e:8x8')
  return slices


def _parse(name: str) -> Slice:
  kind, _, shape = name.strip().partition(':')
  chip = chips.CHIPS.get(kind)
  if chip is None:
    raise ConfigError(
        f'--topology={name}: no such chip; known are '
        f'{", ".join(chips.CHIPS)}')
  example = f'{kind}:' + 'x'.join('2' * chip.dimensions)
  if not re.fullmatch(r'\d{1,4}(x\d{1,4})*', shape):
    raise ConfigError(
        f'--topology={name}: expected chips along each dimension, as '
        f'{example}')
  dims = tuple(map(int, shape.split('x')))
  if len(dims) != chip.dimensions:
    raise ConfigError(
        f'--topology={name}: a slice of {kind} has {chip.dimensions} '
        f'dimensions, as {example}')
  found = Slice(chip, dims)
  host = found.host_shape
  if any(n < 1 or n % h for n, h in zip(dims, host, strict=True)):
    singles = ''.join(
        f', or {"x".join(map(str, s))}' for s in chip.single_host_shapes)
    raise ConfigError(
        f'--topology={name}: expected multiples of a host\'s chips, '
        f'{"x".join(map(str, host))}{singles}')
  if found.num_chips > chip.pod_chips:
    raise ConfigError(
        f'--topology={name} has {found.num_chips} chips, expected at most '
        f'the {chip.pod_chips} of a {kind} pod')
  return found

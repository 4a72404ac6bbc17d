"""A plan as a table for the terminal, a column for each slice."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from byol_jax.planning import chips

# So that the table is at most 98 columns wide.
_SLICES_SIDE_BY_SIDE = 4
_LABEL_WIDTH = 34
_COLUMN_WIDTH = 16

_UNKNOWN = '-'

NOTES = """\
limit: what XLA lets a program take. peak: what its layout of the step takes,
and two batches that the loop sends ahead. An image is two views of it. Floors
are by the chips' published figures; each takes the step's parts to be done at
once, and leaves out how long a collective takes to begin and to end."""
Figures = dict[str, Any]


def draw(all_figures: Sequence[Figures]) -> str:
  """Returns lines; what was not compiled, or does not fit, shows a dash."""
  starts = range(0, len(all_figures), _SLICES_SIDE_BY_SIDE)
  blocks = (all_figures[i:i + _SLICES_SIDE_BY_SIDE] for i in starts)
  return '\n\n'.join('\n'.join(_block(block)) for block in blocks)


def _block(block: Sequence[Figures]) -> Iterator[str]:
  for label, cell in _ROWS:
    if cell is None:
      yield label
      continue
    cells = [_filled(cell, figures) for figures in block]
    yield f'{label:<{_LABEL_WIDTH}}' + ''.join(
        f'{c:>{_COLUMN_WIDTH}}' for c in cells)


def _filled(cell: Callable[[Figures], str], figures: Figures) -> str:
  try:
    return cell(figures)
  except (KeyError, TypeError):  # Not known of this slice.
    return _UNKNOWN


def _number(value: float) -> str:
  """Three digits at the least, and no more than help."""
  return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _field(name: str, scale: float = 1.0) -> Callable[[Figures], str]:
  """The cell of a field, or a field's field, divided by `scale`."""
  def cell(figures: Figures) -> str:
    value: Any = figures
    for part in name.split('.'):
      value = value[part]
    return _number(value / scale)
  return cell


def _fits(figures: Figures) -> str:
  return {True: 'yes', False: 'NO', None: _UNKNOWN}[figures['fits']]


def _peak(figures: Figures) -> str:
  memory = figures['memory']
  if 'refused_bytes' in memory:
    return f'over {_number(memory["refused_bytes"] / chips.GIB)}'
  return _number(memory['peak_bytes'] / chips.GIB)


def _collectives(figures: Figures) -> str:
  count = sum(c['count'] for c in figures['collectives'])
  size = sum(c['result_bytes'] for c in figures['collectives'])
  return f'{count} / {_number(size / 1e6)}'


_ROWS: tuple[tuple[str, Callable[[Figures], str] | None], ...] = (
    ('', lambda f: f['topology']),
    ('chips / devices / hosts',
     lambda f: f'{f["chips"]} / {f["devices"]} / {f["hosts"]}'),
    ('images a step, of a device', _field('device_batch_size')),
    ('fits', _fits),
    ('memory of a device, GiB', None),
    ('  limit', _field('memory.limit_bytes', chips.GIB)),
    ('  peak', _peak),
    ('    parameters, optimizer', _field('memory.state_bytes', chips.GIB)),
    ('    batch', _field('memory.batch_bytes', chips.GIB)),
    ('    batches sent ahead', _field('memory.waiting_bytes', chips.GIB)),
    ('    temporaries', _field('memory.temporaries_bytes', chips.GIB)),
    ('    program', _field('memory.code_bytes', chips.GIB)),
    ('for an image', None),
    ('  GFLOP it must take', _field('flops_per_image', 1e9)),
    ('  GFLOP by XLA\'s count', _field('xla_flops_per_image', 1e9)),
    ('  MB accessed by XLA\'s count',
     _field('xla_bytes_accessed_per_image', 1e6)),
    ('  MB of it in main memory', _field('main_memory_bytes_per_image', 1e6)),
    ('collectives of a step, number / MB', _collectives),
    ('floor on a step, ms', None),
    ('  arithmetic, at the peak', _field('floor.arithmetic', 1e-3)),
    ('  memory, at its bandwidth', _field('floor.memory', 1e-3)),
    ('  interconnect, over all links', _field('floor.interconnect', 1e-3)),
    ('  the largest', _field('at_floor.seconds_per_step', 1e-3)),
    ('  XLA\'s own, where it has one', _field('xla_optimal_seconds', 1e-3)),
    ('at that floor', None),
    ('  images a second', _field('at_floor.images_per_second')),
    ('  hours of the run', _field('at_floor.hours')),
    ('  images a second from each host',
     _field('at_floor.host_images_per_second')),
    ('at the utilisation', lambda f: f'{f["utilisation"]:.0%} of it'),
    ('  images a second', _field('at_utilisation.images_per_second')),
    ('  hours of the run', _field('at_utilisation.hours')),
    ('  chip-hours', _field('at_utilisation.chip_hours')),
    ('  images a second from each host',
     _field('at_utilisation.host_images_per_second')),
    ('  GB a second to a host\'s chips',
     _field('at_utilisation.host_bytes_per_second', 1e9)),
)

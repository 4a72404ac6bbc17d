"""TPU chips, by their published figures.

Peak arithmetic (bfloat16), bandwidth of the memory (HBM), chips of a host and
of a pod are those of Google Cloud's documentation, a page a chip:
https://cloud.google.com/tpu/docs/v2, and likewise v3, v4, v5e, v5p, v6e.

Bandwidth out of a chip is that of one direction of all its links. For v5e, v5p
and v6e it is half the two-way figure of those pages (400, 1200 and 800 GB/s).
For v2 and v3 it is four links of 496 and of 656 Gbit/s, from "A Domain-Specific
Supercomputer for Training Deep Neural Networks" (Communications of the ACM,
2020); for v4 six links of 50 GB/s, from "TPU v4: An Optically Reconfigurable
Supercomputer for Machine Learning" (ISCA 2023).

How much of the memory a program may use is XLA's own limit: libtpu 0.0.42 named
it when it refused, for each chip, a program that needed a terabyte. A compile
asks the libtpu at hand again.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One kind of TPU chip.

  Attributes:
    name: as in the name of a topology.
    devices: of a chip, as JAX counts them. A v4 or v5p chip has two cores that
      work as one ("megacore"), and is one device.
    peak_flops: additions and multiplications a second in bfloat16.
    usable_bytes: of HBM, for a program on one device.
    memory_bandwidth: bytes a second.
    link_bandwidth: bytes a second that can leave for other chips.
    dimensions: of a slice's shape.
    host_shape: the chips of a host in a slice of several.
    single_host_shapes: slices that are one host, if shaped otherwise.
    pod_chips: the most there are in one slice.
  """

  name: str
  devices: int
  peak_flops: float
  usable_bytes: float
  memory_bandwidth: float
  link_bandwidth: float
  dimensions: int
  host_shape: tuple[int, ...]
  single_host_shapes: tuple[tuple[int, ...], ...] = ()
  pod_chips: int


_CHIPS = (
    Chip(
        name='v2', devices=2, peak_flops=46e12, usable_bytes=7.48 * GIB,
        memory_bandwidth=700e9, link_bandwidth=4 * 496e9 / 8,
        dimensions=2, host_shape=(2, 2), pod_chips=256),
    Chip(
        name='v3', devices=2, peak_flops=123e12, usable_bytes=15.48 * GIB,
        memory_bandwidth=900e9, link_bandwidth=4 * 656e9 / 8,
        dimensions=2, host_shape=(2, 2), pod_chips=1024),
    Chip(
        name='v4', devices=1, peak_flops=275e12, usable_bytes=30.75 * GIB,
        memory_bandwidth=1200e9, link_bandwidth=6 * 50e9,
        dimensions=3, host_shape=(2, 2, 1), pod_chips=4096),
    Chip(
        name='v5e', devices=1, peak_flops=197e12, usable_bytes=15.75 * GIB,
        memory_bandwidth=819e9, link_bandwidth=400e9 / 2,
        dimensions=2, host_shape=(2, 2),
        single_host_shapes=((1, 1), (2, 4)), pod_chips=256),
    Chip(
        name='v5p', devices=1, peak_flops=459e12, usable_bytes=95.74 * GIB,
        memory_bandwidth=2765e9, link_bandwidth=1200e9 / 2,
        dimensions=3, host_shape=(2, 2, 1), pod_chips=8960),
    Chip(
        name='v6e', devices=1, peak_flops=918e12, usable_bytes=31.25 * GIB,
        memory_bandwidth=1640e9, link_bandwidth=800e9 / 2,
        dimensions=2, host_shape=(2, 2),
        single_host_shapes=((1, 1), (2, 4)), pod_chips=256),
)

CHIPS = {chip.name: chip for chip in _CHIPS}

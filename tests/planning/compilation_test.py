"""What is read of the real step, compiled for four CPU devices.

These stand in for a slice of four chips: all but the compiler is the same.
"""

import functools

import jax
import pytest

from byol_jax.networks import network as network_lib
from byol_jax.planning import compilation
from byol_jax.planning import slices
from byol_jax.training import devices

_LIMIT = 2**30


@pytest.fixture(autouse=True)
def four_cpu_devices(monkeypatch, tiny_encoder, sums_of_accelerators):
  # What is asked here does not depend on the encoder; compiling time does.
  monkeypatch.setattr(
      network_lib, 'create_network', functools.partial(
          network_lib.create_network, encoder=tiny_encoder))
  monkeypatch.setattr(
      compilation, '_topology_devices', lambda _: jax.devices()[:4])
  monkeypatch.setattr(
      compilation, '_memory_limit', lambda *_: _LIMIT)


(WHERE,) = slices.parse_slices(['v4:2x2x1'])


def _compile(config, num_classes=10):
  return compilation.compile_step(config, num_classes, (2, 8), WHERE)


def test_memory_and_collectives(tiny_config):
  counts = compilation.count(tiny_config, 10)
  program = _compile(tiny_config)
  assert program.refusal is None and program.fits
  memory = program.memory
  assert memory.limit == _LIMIT
  assert memory.state == counts.state_bytes
  # Four images of a device: two views and a label; BYOL reads no index. And
  # two votes.
  assert memory.batch == 4 * (2 * 8 * 8 * 3 * 4 + 4) + 2 * 4
  assert memory.temporaries > 0
  # The gradients, and besides metrics and statistics.
  (reduced,) = program.collectives
  assert reduced.kind == 'all-reduce'
  assert counts.gradient_bytes < reduced.result_bytes
  assert reduced.result_bytes < 2 * counts.gradient_bytes
  assert program.flops > 0
  # Of a CPU all is main memory; the state is read, and written.
  assert program.main_memory_bytes > 2 * memory.state


def test_flops_are_those_of_an_accelerator(tiny_config):
  """Traced as if no CPU was here: no matrix product over patches."""
  program = _compile(tiny_config)
  counts = compilation.count(tiny_config, 10)
  plain = program.flops / 4 / counts.flops_per_image
  assert 1 < plain < 2  # elementwise work, and the update of four images


def test_without_labels_there_is_no_probe(tiny_config):
  labelled, bare = _compile(tiny_config), _compile(tiny_config, None)
  assert bare.memory.batch == labelled.memory.batch - 4 * 4
  assert bare.memory.state < labelled.memory.state


def test_accumulation_counts_every_micro_batch(tiny_config):
  """Four turns of a loop that XLA counts once."""
  one = _compile(tiny_config)
  tiny_config.accumulation_steps = 4
  tiny_config.batch_size *= 4
  four = _compile(tiny_config)
  assert four.flops == pytest.approx(4 * one.flops, rel=0.05)
  # Each turn takes its part out of the batch, and adds to a sum.
  assert 3 < four.main_memory_bytes / one.main_memory_bytes < 8
  assert four.collectives[0].count > 3 * one.collectives[0].count


def test_the_step_is_that_of_the_loop(tiny_config, monkeypatch):
  """State donated, replicated; batch split: `pmap_voting_step` itself."""
  seen = []
  original = devices.pmap_voting_step

  def spy(*args, **kwargs):
    seen.append(kwargs)
    return original(*args, **kwargs)

  monkeypatch.setattr(devices, 'pmap_voting_step', spy)
  program = _compile(tiny_config)
  assert seen == [{'devices': jax.devices()[:4], 'state_axes': None}]
  # Donated: it comes back in its own place, and only metrics are added.
  assert program.memory.outputs < program.memory.state / 10


def test_a_refusal_is_understood(tiny_config, monkeypatch):
  class Lowered:

    def compile(self):
      raise jax.errors.JaxRuntimeError(
          'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used '
          '33.00G of 30.75G hbm. Exceeded hbm capacity by 2.25G.')

  monkeypatch.setattr(
      devices, 'pmap_voting_step',
      lambda *_, **__: type('P', (), {'lower': lambda *_: Lowered()}))
  program = _compile(tiny_config)
  assert not program.fits and program.memory is None
  assert program.refusal.needed == 33 * 2**30
  assert program.refusal.limit == round(30.75 * 2**30)


def test_counts_do_not_depend_on_the_batch(tiny_config):
  counts = compilation.count(tiny_config, 10)
  tiny_config.batch_size *= 3
  assert compilation.count(tiny_config, 10) == counts

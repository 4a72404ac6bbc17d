"""Bytes by hand, in memory and on the chip."""

import jax
import jax.numpy as jnp

from byol_jax.planning import hlo
from byol_jax.planning import traffic

_TEXT = '''
%fused.1 (a: f32[256], b: f32[256]) -> f32[256] {
  %inner.1 = f32[256]{0} multiply(%a, %b)
  ROOT %inner.2 = f32[256]{0} add(%inner.1, %b)
}

%body.1 (s: (s32[], f32[256])) -> (s32[], f32[256]) {
  %s = (s32[], f32[256]{0:T(256)}) parameter(0)
  %x.1 = f32[256]{0:T(256)} get-tuple-element(%s), index=1
  %y.1 = f32[256]{0:T(256)S(1)} negate(%x.1)
  %z.1 = f32[256]{0:T(256)S(1)} sine(%y.1)
}

ENTRY %main.1 (p: f32[256], q: f32[256]) -> f32[256] {
  %p = f32[256]{0:T(256)} parameter(0)
  %q = f32[256]{0:T(256)S(1)} parameter(1)
  %fusion.1 = f32[256]{0:T(256)} fusion(%p, %q), kind=kLoop, calls=%fused.1
  %slice-start.1 = ((f32[256]{0:T(256)}), f32[64]{0:T(256)S(1)}, s32[]{:S(2)}) \
slice-start(%p), slice={[0:64]}
  %slice-done.1 = f32[64]{0:T(256)S(1)} slice-done(%slice-start.1)
  %copy-start.1 = (f32[256]{0:T(256)}, f32[256]{0:T(256)S(1)}, u32[]{:S(2)}) \
copy-start(%q)
  %copy-done.1 = f32[256]{0:T(256)} copy-done(%copy-start.1)
  %while.1 = (s32[], f32[256]{0:T(256)}) while(%t), condition=%c, \
body=%body.1, backend_config={"known_trip_count":{"n":"3"}}
}
'''


def test_only_main_memory_counts():
  """A KiB read and one written by the fusion, which reads the other on-chip;
  a quarter read; one written; and one read in each of three turns."""
  program = hlo.Program(_TEXT)
  assert traffic.main_memory_bytes(program) == 1024 * (2 + 0.25 + 1 + 3)


def test_a_program_of_the_cpu():
  """Two vectors read, one written."""
  x = jnp.zeros((1000,))
  compiled = jax.jit(lambda a, b: jnp.sin(a) + b).lower(x, x).compile()
  program = hlo.Program(compiled.as_text())
  assert traffic.main_memory_bytes(program) == 3 * 4000

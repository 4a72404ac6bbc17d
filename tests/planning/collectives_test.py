"""Collectives of real programs and of pieces of others."""

import re

import jax
import jax.numpy as jnp
import pytest

from byol_jax.planning import collectives
from byol_jax.planning import hlo
from byol_jax.training import devices

# Of a v5e program, shortened: what XLA has merged is one tuple; layouts have
# parentheses of their own.
_MERGED = '''
HloModule jit__fun, is_scheduled=true

%region_4.5 (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[]{:T(128)} parameter(0)
  %b.1 = f32[]{:T(128)} parameter(1)
  ROOT %add.9 = f32[]{:T(128)} add(%a.1, %b.1)
}

ENTRY %main.7 (p.0: f32[2,2,64], p.1: bf16[2,2,32]) -> f32[2,2,64] {
  %p.0 = f32[2,2,64]{2,1,0:T(2,128)S(1)} parameter(0)
  %p.1 = bf16[2,2,32]{2,1,0:T(2,128)} parameter(1)
  %all-reduce.44 = (f32[2,2,64]{2,1,0:T(2,128)S(1)}, \
/*index=1*/bf16[2,2,32]{2,1,0:T(2,128)}) all-reduce(%p.0, %p.1), channel_id=1, \
replica_groups={{0,1},{2,3}}, to_apply=%region_4.5, \
metadata={op_name="jit(_fun)/psum"}
  %psum.2 = f32[]{:T(128)} all-reduce(%p.2), channel_id=2, to_apply=%region_4.5
  ROOT %get-tuple-element.1 = f32[2,2,64]{2,1,0:T(2,128)S(1)} \
get-tuple-element(%all-reduce.44), index=0, \
metadata={op_name="jit(_fun)/all-reduce("}
}
'''

_LOOP = '''
%body.1 (s.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %all-gather-start.1 = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), \
dimensions={0}
  %all-gather-done.1 = f32[8]{0} all-gather-done(%all-gather-start.1)
  %fusion.3 = f32[8]{0} fusion(%y), kind=kCustom, calls=%fused.1
}

%fused.1 (y.1: f32[16]) -> f32[4] {
  ROOT %reduce-scatter.1 = f32[4]{0} reduce-scatter(%y.1), to_apply=%add.1
}

%condition.1 (s.2: (s32[], f32[8])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(3)
  %counter.1 = s32[]{:T(128)} get-tuple-element(%s.2), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%counter.1, %constant.5), direction=LT
}

ENTRY %main.2 (p.3: f32[8]) -> f32[8] {
  %while.1 = (s32[]{:T(128)}, f32[8]{0}) while(%tuple.1), \
condition=%condition.1, body=%body.1
  %while.2 = (s32[]{:T(128)}, f32[8]{0}) while(%tuple.2), \
condition=%other.1, body=%body.1, \
backend_config={"known_trip_count":{"n":"5"}}
  %collective-permute-start.1 = (f32[8]{0}, f32[8]{0}, u32[], u32[]) \
collective-permute-start(%z), source_target_pairs={{0,1}}
}
'''


def _read(text):
  return collectives.read_collectives(hlo.Program(text))


def test_merged_collectives_are_one():
  """And those of groups of devices are not those of all."""
  assert _read(_MERGED) == [
      collectives.Collective(
          'all-reduce', 1, 4 * 2 * 2 * 64 + 2 * 2 * 2 * 32, group=(0, 1)),
      collectives.Collective('all-reduce', 1, 4)]


@pytest.mark.parametrize('groups, group', [
    ('{{0,1,2},{3,4,5}}', (0, 1, 2)), ('[64,8]<=[512]', tuple(range(8))),
    ('[2,4]<=[4,2]T(1,0)', (0, 2, 4, 6)), ('{}', None)])
def test_groups_as_xla_writes_them(groups, group):
  (found,) = _read(_MERGED.replace('{{0,1},{2,3}}', groups).replace(
      '  %psum.2 = ', '  psum.2 '))
  assert found.group == group


def test_loops_and_fusions():
  """Three turns and five, the first counted up to, the second stated."""
  found = {c.kind: c for c in _read(_LOOP)}
  assert found['all-gather'].count == 3 + 5
  assert found['all-gather'].result_bytes == 8 * 32
  assert found['reduce-scatter'].count == 8
  assert found['reduce-scatter'].result_bytes == 8 * 16
  assert found['collective-permute'].result_bytes == 32


def test_nothing_to_collect():
  compiled = jax.jit(jnp.sin).lower(jnp.zeros(3)).compile()
  assert _read(compiled.as_text()) == []


def _compile(fn, x):
  return devices.pmap_train_step(fn).lower(x, jnp.zeros((4, 1))).compile()


@pytest.mark.parametrize('turns', [1, 3])
def test_a_scan_on_four_devices(turns):
  """One all-reduce a turn, and one more; XLA keeps the two apart."""
  def step(state, batch):
    def body(carry, _):
      return jnp.sin(jax.lax.pmean(carry + batch[0], devices.AXIS_NAME)), None
    state, _ = jax.lax.scan(body, state, length=turns)
    return state, jax.lax.pmean(state * batch, devices.AXIS_NAME)

  text = _compile(step, jnp.zeros((5,))).as_text()
  (found,) = _read(text)
  assert found.kind == 'all-reduce'
  assert found.count == turns + 1
  assert found.result_bytes == 4 * 5 * (turns + 1)
  assert turns == 1 or len(re.findall(r' all-reduce\(', text)) == 2

"""What a step must compute, counted from the method and not from the compiler.

Multiplications and additions of convolutions and matrix products count, each
as one; elementwise work does not. A tap of a kernel that falls on padding is
no work.
"""

import math
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp
import ml_collections

from byol_jax.networks import convolution
from byol_jax.networks import network as network_lib


def forward_flops(fn: Any, *args: Any) -> int:
  """Counts one call of `fn` on arguments of these shapes."""
  return _count(_trace(fn, *args))


def step_flops(
    network: network_lib.Network, config: ml_collections.ConfigDict) -> int:
  """Counts one training step, for one image.

  Both views go forward through the online network and the target, and back
  through the online one at twice the cost of forward: eight encoder forwards.
  The images themselves need no gradient, and the probe's gradient goes no
  further than its weights.

  Args:
    network: an unbound module.
    config: of the run; `target` and `image_size` are read.

  Returns:
    Additions and multiplications.
  """
  size = config.image_size
  images = jax.ShapeDtypeStruct(
      (1, size, size, len(config.augment.mean)), jnp.float32)
  variables = jax.eval_shape(
      network.clone(axis_name=None).init, jax.random.key(0), images)

  def flops(method: str) -> int:
    return forward_flops(
        lambda v, x: network.apply(v, x, method=method), variables, images)

  encode, project, whole = map(flops, ('encode', 'project', '__call__'))
  probe = 2 * math.prod(
      variables['params'].get('probe', {}).get(
          'kernel', jax.ShapeDtypeStruct((0,), jnp.float32)).shape)
  predict = whole - project - probe
  target = project if config.target == 'ema' else 0
  first = _first_convolution(
      lambda v, x: network.apply(v, x, method='encode'), variables, images)
  online = 3 * (project + predict) - first
  # The probe: forward on both views, its weights' gradient from the first.
  return 2 * (online + target) + 3 * probe


def _first_convolution(fn: Any, *args: Any) -> int:
  """What the first convolution or product costs: its input is the images."""
  return next(_costs(_trace(fn, *args)), 0)


def _trace(fn: Any, *args: Any) -> core.Jaxpr:
  """With convolutions as convolutions, whatever form the CPU is given."""
  with convolution.for_any_platform():
    return jax.make_jaxpr(fn)(*args).jaxpr


def _count(jaxpr: core.Jaxpr) -> int:
  return sum(_costs(jaxpr))


def _costs(jaxpr: core.Jaxpr):
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'conv_general_dilated':
      yield _convolution(eqn)
    elif eqn.primitive.name == 'dot_general':
      yield _product(eqn)
    else:
      for inner in core.jaxprs_in_params(eqn.params):
        yield from _costs(inner)


def _product(eqn: Any) -> int:
  (contracted, _), _ = eqn.params['dimension_numbers']
  lhs = eqn.invars[0].aval.shape
  return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(
      lhs[d] for d in contracted)


def _convolution(eqn: Any) -> int:
  """Of a convolution without dilation or groups."""
  numbers = eqn.params['dimension_numbers']
  lhs, rhs = (v.aval.shape for v in eqn.invars)
  out = eqn.outvars[0].aval.shape
  taps = 1
  for axis, (low, _) in enumerate(eqn.params['padding']):
    length = lhs[numbers.lhs_spec[2 + axis]]
    stride = eqn.params['window_strides'][axis]
    taps *= sum(
        0 <= place * stride + tap - low < length
        for place in range(out[numbers.out_spec[2 + axis]])
        for tap in range(rhs[numbers.rhs_spec[2 + axis]]))
  channels = rhs[numbers.rhs_spec[0]] * rhs[numbers.rhs_spec[1]]
  return 2 * lhs[numbers.lhs_spec[0]] * channels * taps

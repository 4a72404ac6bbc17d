"""Normalisation as a choice: what `config.encoder_norm` and its like name.

| name | statistics of | weights before it |
|---|---|---|
| `batch` | the batch, over all devices | as they are |
| `batch_local` | each device's share of the batch | as they are |
| `group_ws` | an example's positions and a group of channels | standardised |
| `layer` | an example's positions and channels | as they are |
| `instance` | an example's positions, channel by channel | as they are |
| `none` | nothing: the layer is left out | as they are |
| `affine_init` | nothing, but see `affine_init.py` | as they are |

A layer is called as `norm(x, train=...)` on f[B, ..., C] and gives the same
shape. All but `none` learn a scale, from 1, and an offset, from 0, per channel.
Only `batch` and `batch_local` keep running statistics and treat `train` apart.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import ml_collections

from byol_jax import all_reduce
from byol_jax.networks import affine_init
from byol_jax.networks import weight_standardization


class BatchNorm(nn.Module):
  """Over a batch, by the biased variance E[x^2] - E[x]^2.

  Equal to `nn.BatchNorm`, but that devices are averaged by `all_reduce`, both
  moments at once. Statistics are float32, whatever the layer computes in.

  Attributes:
    momentum: weight of the old running statistics.
    epsilon: added to the variance.
    dtype: of the result; None is that of the input and the parameters.
    axis_name: the mapped axis over which the batch is spread, or None.
    local: normalise each device's share by its own statistics; the running
      ones are the mean over devices, so that all hold the same.
    scale_init: of the scale.
  """

  momentum: float
  epsilon: float
  dtype: jnp.dtype | None = None
  axis_name: str | None = None
  local: bool = False
  scale_init: Callable[..., jax.Array] = nn.initializers.ones

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps f[B, ..., C] to the same shape."""
    channels = x.shape[-1]
    scale = self.param('scale', self.scale_init, (channels,), jnp.float32)
    bias = self.param(
        'bias', nn.initializers.zeros, (channels,), jnp.float32)
    running = {
        name: self.variable(
            'batch_stats', name, start, (channels,), jnp.float32)
        for name, start in (('mean', jnp.zeros), ('var', jnp.ones))}
    dtype = nn.dtypes.canonicalize_dtype(x, scale, bias, dtype=self.dtype)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    statistics = {name: value.value for name, value in running.items()}
    if train:
      spread = self.axis_name is not None and not self.is_initializing()
      statistics, moved = _batch_statistics(
          x, statistics, momentum=self.momentum,
          axis_name=self.axis_name if spread else None, local=self.local)
      if not self.is_initializing():
        for name, value in moved.items():
          running[name].value = value
    return _normalize(
        x, **statistics, scale=scale, bias=bias, epsilon=self.epsilon,
        dtype=dtype)


# Traced once for all layers of one shape: a ResNet's step is then traced and
# lowered in five sixths of the time. Inlined, as that leaves the program as it
# is: functions that stay are lowered sooner still, but keep more for the
# gradient, and XLA's estimate for TPUs goes from 22.1 ms to 24.0.
@functools.partial(
    jax.jit, inline=True, static_argnames=('momentum', 'axis_name', 'local'))
def _batch_statistics(
    x: jax.Array, running: dict[str, jax.Array], *, momentum: float,
    axis_name: str | None, local: bool,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Those of a batch f[B, ..., C], and the running ones moved towards them."""
  places = tuple(range(x.ndim - 1))
  moments = jnp.stack([jnp.mean(x, places), jnp.mean(jnp.square(x), places)])
  if axis_name is not None and not local:
    moments = all_reduce.pmean(moments, axis_name)
  mean, square = moments
  statistics = {
      'mean': mean, 'var': jnp.maximum(0.0, square - jnp.square(mean))}
  moved = {
      name: momentum * running[name] + (1 - momentum) * value
      for name, value in statistics.items()}
  if axis_name is not None and local:
    moved = all_reduce.pmean(moved, axis_name)
  return statistics, moved


@functools.partial(jax.jit, inline=True, static_argnames=('epsilon', 'dtype'))
def _normalize(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array,
    bias: jax.Array, *, epsilon: float, dtype: jnp.dtype) -> jax.Array:
  """f[B, ..., C] by statistics f[C]."""
  mean, var, scale, bias = (
      v.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
      for v in (mean, var, scale, bias))
  factor = lax.rsqrt(var + epsilon) * scale
  return ((x - mean) * factor + bias).astype(dtype)


class GroupNorm(nn.Module):
  """Over an example's positions and a group of its channels (Wu and He 2018).

  Equal to `nn.GroupNorm`. Moments are taken channel by channel, and only then
  by group, so that nothing as large as `x` is reshaped: on a CPU that would
  cost a third of a training step. Statistics are float32, and the variance is
  of centred values: over few positions E[x^2] - E[x]^2 loses three digits.

  Attributes:
    num_groups: divides the channels; 1 is layer normalisation; None is one
      group for each channel, instance normalisation.
    epsilon: added to the variance.
    dtype: of the result; None is that of the input and the parameters.
    scale_init: of the scale.
  """

  num_groups: int | None
  epsilon: float
  dtype: jnp.dtype | None = None
  scale_init: Callable[..., jax.Array] = nn.initializers.ones

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps f[B, ..., C] to the same shape."""
    del train  # An example has no other statistics than its own.
    channels = x.shape[-1]
    scale = self.param('scale', self.scale_init, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))
    dtype = nn.dtypes.canonicalize_dtype(x, scale, bias, dtype=self.dtype)

    return _normalize_groups(
        x, scale, bias, num_groups=self.num_groups, epsilon=self.epsilon,
        dtype=dtype)


@functools.partial(
    jax.jit, inline=True, static_argnames=('num_groups', 'epsilon', 'dtype'))
def _normalize_groups(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *,
    num_groups: int | None, epsilon: float, dtype: jnp.dtype) -> jax.Array:
  """See `GroupNorm`; of its own for the same reason as those above."""
  over_group = functools.partial(_over_group, num_groups=num_groups)
  places = tuple(range(1, x.ndim - 1))
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  centred = x - over_group(jnp.mean(x, places, keepdims=True))
  variance = over_group(jnp.mean(jnp.square(centred), places, keepdims=True))
  scale, bias = (
      v.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
      for v in (scale, bias))
  factor = lax.rsqrt(variance + epsilon) * scale
  return (centred * factor + bias).astype(dtype)


def _over_group(moment: jax.Array, num_groups: int | None) -> jax.Array:
  """Puts the mean over its group in every channel's place, f[..., C]."""
  if num_groups is None:
    return moment
  groups = moment.reshape(*moment.shape[:-1], num_groups, -1)
  mean = jnp.mean(groups, axis=-1, keepdims=True)
  return jnp.broadcast_to(mean, groups.shape).reshape(moment.shape)


class Identity(nn.Module):
  """No normalisation, and nothing that is learned in its place."""

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    del train
    return x


@dataclasses.dataclass(frozen=True)
class Normalization:
  """How one part of the network normalises.

  Attributes:
    norm: makes a layer, called as `norm(name=..., scale_init=...)`.
    conv: makes a convolution that a layer follows; as `nn.Conv`.
    dense: makes a dense layer that one follows; as `nn.Dense`.
  """

  norm: Callable[..., nn.Module]
  conv: Callable[..., nn.Module] = nn.Conv
  dense: Callable[..., nn.Module] = nn.Dense


def create_normalization(
    config: ml_collections.ConfigDict, part: str, *, axis_name: str | None,
    dtype: jnp.dtype | None = None,
) -> Normalization:
  """Reads `config.PART_norm` and the settings that go with it.

  Args:
    config: a valid configuration.
    part: encoder, projector or predictor. The heads see one vector for each
      example. It has no positions for `instance` to average over, so that
      there the instance is the vector: it is `layer`.
    axis_name: the mapped axis over which a training batch is spread.
    dtype: of the result; None is that of the input and the parameters.
  """
  kind = config[f'{part}_norm']
  if kind == 'instance' and part != 'encoder':
    kind = 'layer'
  options = dict(epsilon=config.norm_epsilon, dtype=dtype)
  if kind in ('batch', 'batch_local'):
    norm = functools.partial(
        BatchNorm, axis_name=axis_name, local=kind == 'batch_local',
        momentum=config.batch_norm_momentum, **options)
  elif kind == 'affine_init':
    norm = functools.partial(affine_init.Affine, **options)
  elif kind == 'none':
    norm = _make_identity
  else:
    num_groups = {
        'group_ws': config.norm_groups, 'layer': 1, 'instance': None}[kind]
    norm = functools.partial(GroupNorm, num_groups=num_groups, **options)
  if kind != 'group_ws':
    return Normalization(norm)
  epsilon = config.weight_standardization_epsilon
  return Normalization(
      norm,
      functools.partial(
          weight_standardization.StandardizedConv, kernel_epsilon=epsilon),
      functools.partial(
          weight_standardization.StandardizedDense, kernel_epsilon=epsilon))


def _make_identity(*, name: str, scale_init: Any = None) -> nn.Module:
  del scale_init
  return Identity(name=name)


def synchronized(axis_name: str | None) -> contextlib.AbstractContextManager:
  """Within it, batch normalisation that names no axis uses `axis_name`.

  For encoders that users bring: written for one device, they would normalise
  each device's share of the batch by its own statistics, and the result of a
  run would depend on the number of devices.
  """

  def interceptor(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if (isinstance(module, (nn.BatchNorm, BatchNorm))
        and module.axis_name is None):
      # Flax freezes a module's fields, and a clone would be a new child.
      object.__setattr__(module, 'axis_name', axis_name)
    return next_fun(*args, **kwargs)

  return nn.intercept_methods(interceptor)

"""Weight standardisation (Qiao et al. 2019, Eq. 8; BYOL in 2010.10241).

The layers keep raw kernels and use standardised ones. A kernel belongs to no
view, so under `apply_views`, which maps over views, it is standardised once
for each network and forward pass, not once for each view. A training step
standardises it once for all its passes, see `split`.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
from jax import lax
import jax.numpy as jnp


def standardize(kernel: jax.Array, epsilon: float) -> jax.Array:
  """Gives each output channel zero mean and unit variance over its fan-in.

  Adding a number to a channel's weights, or scaling them, changes nothing as
  long as their variance stays above `epsilon`.

  Args:
    kernel: f[..., inputs, outputs].
    epsilon: where the biased variance is less, this is divided by instead.

  Returns:
    f[..., inputs, outputs]. A channel of equal weights becomes zero.
  """
  # Two-dimensional: over the axes of a 1x1 kernel as they are, XLA takes seven
  # times as long for the gradient on a CPU.
  flat = kernel.reshape(-1, kernel.shape[-1])
  centred = flat - jnp.mean(flat, axis=0, keepdims=True)
  variance = jnp.mean(jnp.square(centred), axis=0, keepdims=True)
  factor = lax.rsqrt(jnp.maximum(
      variance, jnp.asarray(epsilon, kernel.dtype)))
  return (centred * factor).reshape(kernel.shape)


# The collection of kernels that need no more standardising.
COLLECTION = 'standardized'


def split(
    params: Mapping[str, Any], epsilon: float
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Standardises a part's kernels beforehand.

  Args:
    params: of an encoder or a head whose layers are `StandardizedConv` or
      `StandardizedDense` where a norm follows, `norm1` to `conv1` or `dense1`.
    epsilon: see `standardize`.

  Returns:
    The other parameters, and `COLLECTION` in which those layers find their
    kernels.
  """
  flat = traverse_util.flatten_dict(params)
  kernels = {}
  for path in list(flat):
    *parents, layer, leaf = path
    norm = layer.replace('conv', 'norm').replace('dense', 'norm')
    if leaf == 'kernel' and (*parents, norm, 'scale') in flat:
      kernels[path] = standardize(flat.pop(path), epsilon)
  return (
      traverse_util.unflatten_dict(flat), traverse_util.unflatten_dict(kernels))


class _Standardized(nn.Module):
  """Makes a layer see its kernel standardised, by itself or beforehand."""

  def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
    if self.has_variable(COLLECTION, name):
      return self.get_variable(COLLECTION, name)
    value = super().param(name, *args, **kwargs)
    return standardize(value, self.kernel_epsilon) if (
        name == 'kernel') else value


class StandardizedConv(_Standardized, nn.Conv):
  """`nn.Conv` with standardised weights."""

  kernel_epsilon: float = 1e-5


class StandardizedDense(_Standardized, nn.Dense):
  """`nn.Dense` with standardised weights."""

  kernel_epsilon: float = 1e-5

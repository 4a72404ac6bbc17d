"""Weight standardisation (Qiao et al. 2019, Eq. 8; BYOL in 2010.10241).

The layers keep raw kernels and use standardised ones. A kernel belongs to no
view, so under `apply_views`, which maps over views, it is standardised once
for each network and forward pass, not once for each view.
"""

from typing import Any

from flax import linen as nn
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


class _Standardized(nn.Module):
  """Makes a layer see its kernel standardised."""

  def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
    value = super().param(name, *args, **kwargs)
    return standardize(value, self.kernel_epsilon) if (
        name == 'kernel') else value


class StandardizedConv(_Standardized, nn.Conv):
  """`nn.Conv` with standardised weights."""

  kernel_epsilon: float = 1e-5


class StandardizedDense(_Standardized, nn.Dense):
  """`nn.Dense` with standardised weights."""

  kernel_epsilon: float = 1e-5

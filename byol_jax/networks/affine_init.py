"""Initialisation in place of normalisation (2010.10241, "modified init").

The paper's question: does batch normalisation help BYOL because it looks at
the batch, or because it makes up for an initialisation that deep networks
without it lack? Here it only initialises. Every layer is a learned affine map
whose first values make its output on one first batch what batch normalisation
would have made it; from then on only gradients move them.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp


class Affine(nn.Module):
  """Learned scale and offset per channel, which start from data.

  While a network is initialised, on a real batch, scale is gamma / sigma and
  offset -gamma * mu / sigma, with mu and sigma the batch's mean and standard
  deviation of this layer's input, to which all earlier layers have been
  applied in the same way. Statistics are never used again. So a channel that
  is constant on that batch, its variance below epsilon, says nothing of what
  it will be: it is centred, and keeps its scale (sigma is 1). Divided by the
  root of epsilon, it would be 316 times too large when it comes to life.

  Attributes:
    epsilon: added to the variance; what is less is no variance.
    dtype: of the result; None is that of the input.
    scale_init: gamma; zeros in the last layer of a residual branch.
  """

  epsilon: float
  dtype: jnp.dtype | None = None
  scale_init: Callable[..., jax.Array] = nn.initializers.ones

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps f[B, ..., C] to the same shape."""
    del train
    channels = x.shape[-1]

    def scale_and_offset(key: jax.Array) -> tuple[jax.Array, jax.Array]:
      axes = tuple(range(x.ndim - 1))
      wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
      mean = jnp.mean(wide, axis=axes)
      variance = jnp.mean(jnp.square(wide - mean.reshape(
          (1,) * len(axes) + (-1,))), axis=axes)
      gamma = self.scale_init(key, (channels,), jnp.float32)
      scale = gamma * jnp.where(
          variance < self.epsilon, 1.0, lax.rsqrt(variance + self.epsilon))
      return scale, -scale * mean

    def init(key: jax.Array, which: int) -> Any:
      return scale_and_offset(key)[which].astype(jnp.float32)

    scale = self.param('scale', init, 0)
    bias = self.param('bias', init, 1)
    x, scale, bias = nn.dtypes.promote_dtype(x, scale, bias, dtype=self.dtype)
    shape = (1,) * (x.ndim - 1) + (-1,)
    return x * scale.reshape(shape) + bias.reshape(shape)

"""The depth head of the paper's appendix D.6 (Laina et al. 2016, section 3).

A feature map is enlarged by up-projections, each twofold, and read off as one
number a position.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from byol_jax.networks import initializers


def unpool(x: jax.Array) -> jax.Array:
  """Maps [B, h, w, C] to [B, 2h, 2w, C]: value, zero, value, zero, ..."""
  zero = jnp.zeros((), x.dtype)
  return lax.pad(x, zero, [(0, 0, 0), (0, 1, 1), (0, 1, 1), (0, 0, 0)])


class UpProjection(nn.Module):
  """Unpooling, then a 5x5 and a 3x3 convolution around a 5x5 shortcut.

  Attributes:
    channels: of the result.
    norm: makes a normalisation layer, called as `norm(name=...)`.
    dtype: of the computation; parameters are float32.
  """

  channels: int
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps float[B, h, w, C] to float[B, 2h, 2w, channels]."""
    def conv_norm(x: jax.Array, kernel_size: int, suffix: str) -> jax.Array:
      x = nn.Conv(
          self.channels, (kernel_size, kernel_size), padding=kernel_size // 2,
          use_bias=False, dtype=self.dtype,
          kernel_init=initializers.truncated_fan_in, name=f'conv{suffix}')(x)
      return self.norm(name=f'norm{suffix}')(x, train=train)

    x = unpool(x)
    shortcut = conv_norm(x, 5, '_shortcut')
    x = nn.relu(conv_norm(x, 5, '1'))
    return nn.relu(conv_norm(x, 3, '2') + shortcut)


class DepthHead(nn.Module):
  """Up-projections, then a 3x3 convolution to one channel, in metres.

  Attributes:
    norm: makes a normalisation layer, called as `norm(name=...)`.
    channels: of each up-projection.
    dtype: of the computation; parameters and depths are float32.
  """

  norm: Callable[..., nn.Module]
  channels: tuple[int, ...] = (512, 256, 128, 64)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps f32[B, h, w, D] to f32[B, h * 2**n, w * 2**n, 1]."""
    for layer, channels in enumerate(self.channels, start=1):
      x = UpProjection(
          channels, self.norm, self.dtype, name=f'up{layer}')(x, train=train)
    return nn.Conv(
        1, (3, 3), padding=1, kernel_init=initializers.truncated_fan_in,
        name='regressor')(x.astype(jnp.float32))

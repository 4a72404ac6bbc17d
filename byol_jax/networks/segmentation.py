"""The fully convolutional head of the paper's appendix D.4, which is MoCo's."""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from byol_jax.networks import initializers


class FCNHead(nn.Module):
  """Two dilated 3x3 convolutions with norm and ReLU, then 1x1 to classes.

  Attributes:
    num_classes: C.
    norm: makes a normalisation layer, called as `norm(name=...)`.
    channels: of both convolutions.
    dilation: of both.
    dtype: of the computation; parameters and logits are float32.
  """

  num_classes: int
  norm: Callable[..., nn.Module]
  channels: int = 256
  dilation: int = 6
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps f32[B, h, w, D] to logits f32[B, h, w, C]."""
    for layer in (1, 2):
      x = nn.Conv(
          self.channels, (3, 3), kernel_dilation=self.dilation,
          padding=self.dilation, use_bias=False, dtype=self.dtype,
          kernel_init=initializers.truncated_fan_in, name=f'conv{layer}')(x)
      x = nn.relu(self.norm(name=f'norm{layer}')(x, train=train))
    return nn.Conv(
        self.num_classes, (1, 1), kernel_init=initializers.truncated_fan_in,
        name='classifier')(x.astype(jnp.float32))

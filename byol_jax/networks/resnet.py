"""ResNet v1 (post-activation; the stride on the 3x3 convolution).

Parameter names follow the picture: `stem_conv`, `stem_norm`, then
`group{1..4}_block{1..}` with `conv1`, `norm1`, ... and `shortcut_conv`,
`shortcut_norm`.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from byol_jax import all_reduce
from byol_jax.networks import convolution
from byol_jax.networks import initializers
from byol_jax.networks import normalization as normalization_lib
from byol_jax.networks import pooling
from byol_jax.networks import primitives

# Blocks in each of the four groups.
BASIC_DEPTHS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK_DEPTHS = {
    50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3),
    200: (3, 24, 36, 3)}
# Kernel size and stride of the stem's convolution.
STEMS = {'imagenet': (7, 2), 'cifar': (3, 1), 'stride2': (3, 2)}


def _pads(
    kernel_size: int, padding: str, dilation: int = 1,
) -> str | list[tuple[int, int]]:
  """`torch` pads both sides alike; `same` puts the odd pixel right, bottom."""
  if padding == 'same':
    return 'SAME'
  return [(kernel_size // 2 * dilation,) * 2] * 2


def _conv(
    channels: int, kernel_size: int, stride: int, *,
    make_conv: Callable[..., nn.Module], padding: str, dtype: jnp.dtype,
    name: str, dilation: int = 1,
) -> nn.Module:
  return make_conv(
      channels, (kernel_size, kernel_size), (stride, stride),
      kernel_dilation=dilation, padding=_pads(kernel_size, padding, dilation),
      use_bias=False, dtype=dtype,
      kernel_init=initializers.truncated_fan_in,
      conv_general_dilated=convolution.conv_general_dilated, name=name)


class Block(nn.Module):
  """A residual block: basic (two 3x3) or bottleneck (1x1, 3x3, 1x1).

  Attributes:
    channels: of the result.
    stride: of the first 3x3 convolution and of the shortcut.
    bottleneck: whether to narrow by 4 between two 1x1 convolutions.
    project: whether the shortcut is a 1x1 convolution or the identity.
    zero_gamma: whether the last scale starts at 0, the block as identity.
    conv: makes a convolution, called as
      `conv(channels, kernel_size, stride, name=..., dilation=...)`.
    norm: makes a normalisation layer, called as
      `norm(name=..., scale_init=...)`.
    dilation: of the 3x3 convolutions.
  """

  channels: int
  stride: int
  bottleneck: bool
  project: bool
  zero_gamma: bool
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  dilation: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps float[B, H, W, C] to float[B, H/stride, W/stride, channels]."""
    if self.bottleneck:
      inner = self.channels // 4
      layers = ((inner, 1, 1), (inner, 3, self.stride), (self.channels, 1, 1))
    else:
      layers = ((self.channels, 3, self.stride), (self.channels, 3, 1))
    shortcut = x
    if self.project:
      shortcut = self.conv(
          self.channels, 1, self.stride, name='shortcut_conv')(x)
      shortcut = self.norm(name='shortcut_norm')(shortcut, train=train)
    for i, (channels, kernel_size, stride) in enumerate(layers, start=1):
      x = self.conv(
          channels, kernel_size, stride, name=f'conv{i}',
          dilation=self.dilation if kernel_size > 1 else 1)(x)
      last = i == len(layers)
      scale_init = (
          nn.initializers.zeros if last and self.zero_gamma
          else nn.initializers.ones)
      x = self.norm(scale_init=scale_init, name=f'norm{i}')(x, train=train)
      if not last:
        x = nn.relu(x)
    return nn.relu(x + shortcut)


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
  return primitive.name in primitives.PRODUCTS


def _rematerialized(
    block: type[nn.Module], remat: str, group: int) -> type[nn.Module]:
  """A block that keeps less for its gradient: see `ResNet.remat`.

  What devices have averaged is kept in any case: to have it again would take
  the collective again.
  """
  if remat == 'none' or (remat == 'first_group' and group > 0):
    return block
  policies = jax.checkpoint_policies
  policy = policies.save_only_these_names(all_reduce.SUM)
  if remat == 'norm':
    policy = policies.save_from_both_policies(policy, _is_product)
  return nn.remat(block, static_argnums=(2,), policy=policy)


class ResNet(nn.Module):
  """Maps images to embeddings: stem, four groups of blocks, mean pooling.

  Attributes:
    depth: a key of `BASIC_DEPTHS` or `BOTTLENECK_DEPTHS`.
    normalization: of every convolution.
    width: multiplies every number of channels (64 in the stem).
    channels_per_group: of the four groups' results, before `width`; empty is
      64, 128, 256 and 512, and four times as many of bottlenecks.
    stem: `imagenet` (7x7 convolution of stride 2, then 3x3 max-pooling of
      stride 2), `cifar` (3x3 of stride 1, no pooling) or `stride2` (3x3 of
      stride 2, no pooling).
    padding: `torch` or `same`, of every convolution and of the pooling.
    projection_shortcut: `shape` or `group`.
    zero_gamma: see `Block`.
    dtype: of the computation; parameters are float32.
    remat: what is computed again for the gradient instead of being kept:
      `none`, `norm` (all but what convolutions give), `block` (all within a
      block) or `first_group` (the same, in the first group alone, whose maps
      are the largest).
    dilate_last: whether the last group keeps its resolution (stride 1), its
      3x3 convolutions dilated by 2, as for segmentation (MoCo, section 4.2).
    pool: whether to average over positions; if not, the map is returned.
  """

  depth: int
  normalization: normalization_lib.Normalization
  width: float = 1.0
  channels_per_group: tuple[int, ...] = ()
  stem: str = 'imagenet'
  padding: str = 'torch'
  projection_shortcut: str = 'shape'
  zero_gamma: bool = False
  dtype: jnp.dtype = jnp.float32
  remat: str = 'none'
  dilate_last: bool = False
  pool: bool = True

  @property
  def stride(self) -> int:
    """Pixels of the image between neighbours of the last map."""
    stem = STEMS[self.stem][1] * (2 if self.stem == 'imagenet' else 1)
    return stem * (4 if self.dilate_last else 8)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps float[B, H, W, 3] to f32[B, D], D = 512 or 2048 times width.

    Without `pool`, to f32[B, ceil(H / stride), ceil(W / stride), D].
    """
    conv = functools.partial(
        _conv, make_conv=self.normalization.conv, padding=self.padding,
        dtype=self.dtype)
    norm = self.normalization.norm
    bottleneck = self.depth in BOTTLENECK_DEPTHS
    blocks = (BOTTLENECK_DEPTHS if bottleneck else BASIC_DEPTHS)[self.depth]
    base = round(64 * self.width)

    x = conv(base, *STEMS[self.stem], name='stem_conv')(x)
    x = norm(name='stem_norm')(x, train=train)
    x = nn.relu(x)
    if self.stem == 'imagenet':
      x = pooling.max_pool(x, 3, 2, _pads(3, self.padding))

    for group, num_blocks in enumerate(blocks):
      make_block = _rematerialized(Block, self.remat, group)
      channels = base * 2**group * (4 if bottleneck else 1)
      if self.channels_per_group:
        channels = round(self.channels_per_group[group] * self.width)
      for block in range(num_blocks):
        dilated = self.dilate_last and group == len(blocks) - 1
        stride = 2 if group and not block and not dilated else 1
        shape_changes = stride != 1 or x.shape[-1] != channels
        project = shape_changes or (
            self.projection_shortcut == 'group' and not block)
        x = make_block(
            channels, stride, bottleneck, project, self.zero_gamma, conv,
            norm, dilation=2 if dilated else 1,
            name=f'group{group + 1}_block{block + 1}',
        )(x, train)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if not self.pool:
      return x.astype(dtype)
    return jnp.mean(x, axis=(1, 2), dtype=dtype)

"""A pretrained encoder as a function of images."""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from byol_jax import config as config_lib
from byol_jax.interchange import flax_folder
from byol_jax.networks import network as network_lib


class Encoder:
  """Maps images to embeddings; a pure function of JAX.

  It is the online encoder with its running statistics, normalisation of the
  images included. It works within `jax.jit`, `jax.vmap`, `jax.pmap` and
  `jax.grad`.

  Attributes:
    embedding_size: D.
    image_size: pixels, of the images it is evaluated on. Other sizes work, as
      far as the encoder does.
    num_channels: C.
    step: of the checkpoint.
    variables: `params` and `batch_stats` of the encoder.
  """

  def __init__(
      self, network: network_lib.Network, variables: dict[str, Any], *,
      image_size: int, step: int):
    """See `load_encoder`."""
    # Through the host, so that they are tied to no device.
    self.variables = jax.tree.map(jnp.asarray, jax.device_get({
        name: {'encoder': tree['encoder']} for name, tree in variables.items()
        if 'encoder' in tree}))
    self.image_size = image_size
    self.num_channels = len(network.mean)
    self.step = step
    self._encode = jax.jit(functools.partial(
        network.apply, train=False, method='encode'))
    shape = (1, image_size, image_size, self.num_channels)
    self.embedding_size = jax.eval_shape(
        self._encode, self.variables,
        jax.ShapeDtypeStruct(shape, jnp.float32)).shape[1]

  def __call__(self, images: jax.typing.ArrayLike) -> jax.Array:
    """Maps float[B, H, W, C] in [0, 1] to embeddings f32[B, embedding_size].

    Raises:
      TypeError: if images are not of floating point.
      ValueError: if their shape is another.
    """
    images = jnp.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise TypeError(
          f'images are {images.dtype}, expected floats in [0, 1]: divide '
          'images of uint8 by 255')
    if images.ndim != 4:
      hint = ': add an axis, images[None]' if images.ndim == 3 else ''
      raise ValueError(
          f'images have the shape {images.shape}, expected [B, H, W, '
          f'{self.num_channels}]{hint}')
    if images.shape[3] != self.num_channels:
      hint = (': channels go last' if images.shape[1] == self.num_channels
              else '')
      raise ValueError(
          f'images have {images.shape[3]} channels (shape {images.shape}), '
          f'expected [B, H, W, {self.num_channels}]{hint}')
    return self._encode(self.variables, images.astype(jnp.float32))


def load_encoder(workdir: str, encoder: nn.Module | None = None) -> Encoder:
  """Loads the encoder that a run has trained.

      from byol_jax import load_encoder
      encode = load_encoder('/path/of/a/workdir')
      embeddings = encode(images)  # f32[B, H, W, 3] in [0, 1] -> f32[B, D]

  Args:
    workdir: of `byol_jax.pretrain`, whose newest checkpoint is taken; or a
      folder that `byol_jax.export --format=flax` has written.
    encoder: the Flax module that the run was given, where it was given one.

  Returns:
    See `Encoder`.

  Raises:
    ConfigError: if there is no checkpoint, if an export is damaged or of
      another format, or if `encoder` is needed.
  """
  if flax_folder.is_export(workdir):
    found = flax_folder.read(workdir, encoder)
    return Encoder(
        found.network, found.variables, image_size=found.image_size,
        step=found.step)
  # An export is read without what trains and saves.
  from byol_jax.evaluation import features
  from byol_jax.training import saved_run
  config, network, state = saved_run.restore(workdir, encoder)
  return Encoder(
      network, features.online_variables(state),
      image_size=config_lib.test_image_size(config),
      step=int(state.step))

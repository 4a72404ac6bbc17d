"""An encoder with a head of another task, to be trained on labels."""

from flax import linen as nn
import jax

from byol_jax.networks import network as network_lib
from byol_jax.networks import normalization


class Transfer(nn.Module):
  """Images in [0, 1] to what the head makes of the encoder's output.

  Parameters have the parts `encoder`, whose names are those of
  `network.Network`, and `head`.

  Attributes:
    encoder: maps normalised images f32[B, H, W, C] to embeddings, or to maps;
      may take a keyword `train`.
    head: maps those to outputs; may take a keyword `train`.
    mean: subtracted from each channel.
    std: each channel is divided by it.
    freeze_encoder: use the encoder's running statistics, and pass no gradient
      into it, in training too.
    axis_name: mapped axis over which a training batch is spread, or None.
  """

  encoder: nn.Module
  head: nn.Module
  mean: tuple[float, ...]
  std: tuple[float, ...]
  freeze_encoder: bool = False
  axis_name: str | None = None

  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps f32[B, H, W, C] to the head's output."""
    with normalization.synchronized(self.axis_name):
      features = network_lib.encode(
          self.encoder, images, mean=self.mean, std=self.std,
          train=train and not self.freeze_encoder)
      if self.freeze_encoder:
        features = jax.lax.stop_gradient(features)
      return network_lib.call(self.head, features, train=train)

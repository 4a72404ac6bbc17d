"""An encoder as a program for other runtimes, and whether it arrived whole.

Programs compute in float32, whatever the run did, and hold no convolution that
was chosen for this machine.
"""

from collections.abc import Callable
import copy
from typing import Any

from absl import logging
import jax
import numpy as np

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.interchange import pretrained as pretrained_lib
from byol_jax.networks import convolution
from byol_jax.networks import network as network_lib

# Where one file runs.
PLATFORMS = ('cpu', 'cuda', 'tpu')
# Of the largest number in an embedding.
TOLERANCE = 1e-4


def encoder_variables(encoder: pretrained_lib.Pretrained) -> dict[str, Any]:
  """`params` and `batch_stats`, of the encoder alone."""
  return {
      name: {'encoder': tree['encoder']}
      for name, tree in encoder.variables.items() if 'encoder' in tree}


def make_encode(
    encoder: pretrained_lib.Pretrained
) -> Callable[[Any, jax.Array], jax.Array]:
  """`encode(variables, images f32[B, H, W, C]) -> f32[B, D]`, not compiled."""
  network = encoder.network
  if encoder.config.encoder in config_rules.ENCODERS:
    config = copy.deepcopy(encoder.config)
    config.compute_dtype = 'float32'
    network = network_lib.create_network(config, None)

  def encode(variables: Any, images: jax.Array) -> jax.Array:
    with convolution.for_any_platform():
      return network.apply(variables, images, method='encode')

  return encode


def takes_any_size(encoder: pretrained_lib.Pretrained) -> bool:
  """Whether one program can serve every height and width.

  With `same`, how much is padded on which side depends on the size.
  """
  return (
      encoder.config.encoder in config_rules.ENCODERS
      and encoder.config.resnet.padding == 'torch')


def describe_size(encoder: pretrained_lib.Pretrained) -> str:
  """The images that the program takes, in words."""
  if takes_any_size(encoder):
    return f'[B, H, W, {encoder.num_channels}], any size'
  size = encoder.image_size
  return (
      f'[B, {size}, {size}, {encoder.num_channels}], and no other size '
      '(export again with --image_size for another)')


def symbolic_shape(encoder: pretrained_lib.Pretrained) -> str:
  """The shape of images, as `jax.export` writes shapes with unknowns."""
  if takes_any_size(encoder):
    return f'batch, height, width, {encoder.num_channels}'
  size = encoder.image_size
  return f'batch, {size}, {size}, {encoder.num_channels}'


def check_agreement(
    encoder: pretrained_lib.Pretrained, exported: Callable[[np.ndarray], Any],
    kind: str,
) -> float:
  """Holds what a runtime makes of random images to the encoder itself.

  Args:
    encoder: what was exported.
    exported: maps f32[B, H, W, C] to f32[B, D] in that runtime.
    kind: the format.

  Returns:
    The largest difference, as a share of the largest number.

  Raises:
    ConfigError: if it is above `TOLERANCE`.
  """
  size = encoder.image_size
  images = np.random.default_rng(0).uniform(
      size=(2, size, size, encoder.num_channels)).astype(np.float32)
  expected = np.asarray(jax.jit(make_encode(encoder))(
      encoder_variables(encoder), images))
  # Another number of images than the program was traced with, if any was.
  got = np.concatenate([np.asarray(exported(images[:1])),
                        np.asarray(exported(images))])
  expected = np.concatenate([expected[:1], expected])
  difference = float(np.abs(got - expected).max() / np.abs(expected).max())
  if not difference <= TOLERANCE:
    raise config_lib.ConfigError(
        f'format {kind}: the written encoder gives embeddings that differ by '
        f'{difference:.1e} of the largest, expected at most {TOLERANCE:g}; '
        'do not use it, and take another format')
  logging.info(
      'format %s: embeddings of random images differ by %.1e of the largest',
      kind, difference)
  return difference


def agreement_note(difference: float) -> str:
  """A sentence for the card."""
  return (
      'Loaded in its own runtime when it was written, it gave the embeddings '
      f'of random\nimages to {difference:.0e} of the largest.\n')

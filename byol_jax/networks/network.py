"""One network for both sides: encoder, projector, predictor, online probe."""

from collections.abc import Sequence
import functools
import inspect
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import ml_collections

from byol_jax.networks import heads
from byol_jax.networks import normalization
from byol_jax.networks import resnet
from byol_jax.networks import weight_standardization

# What makes a prediction, each with a norm of its own.
PARTS = ('encoder', 'projector', 'predictor')
# What an EMA target consists of: a prediction is made by the online side.
TARGET_PARTS = ('encoder', 'projector')


@struct.dataclass
class Outputs:
  """What the network makes of one view.

  Attributes:
    embedding: f32[B, D], the representation that is evaluated and exported.
    projection: f32[B, P].
    prediction: f32[B, P]; the projection itself where there is no predictor;
      None on the target side.
    logits: f32[B, num_classes] of the probe on a stopped embedding, or None.
  """

  embedding: jax.Array
  projection: jax.Array
  prediction: jax.Array | None = None
  logits: jax.Array | None = None


def encode(
    encoder: nn.Module, images: jax.Array, *, mean: Sequence[float],
    std: Sequence[float], train: bool,
) -> jax.Array:
  """Normalises images and applies an encoder that may take `train`.

  Args:
    encoder: a bound module.
    images: f[B, H, W, C] in [0, 1].
    mean: subtracted from each channel; empty if that is done.
    std: each channel is divided by it; likewise.
    train: whether to use batch statistics.

  Returns:
    What the encoder gives, in the type of the images, or float32 if that is
    less precise.
  """
  if mean:
    images = normalize(images, mean=mean, std=std)
  return call(encoder, images, train=train).astype(
      jnp.promote_types(images.dtype, jnp.float32))


def normalize(
    images: jax.Array, *, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """Subtracts `mean` from each channel, and divides it by `std`."""
  mean, std = (
      jnp.asarray(x, images.dtype).reshape(1, 1, 1, -1) for x in (mean, std))
  return (images - mean) / std


def call(module: nn.Module, x: jax.Array, *, train: bool) -> jax.Array:
  """Applies a module, with `train` if it takes that."""
  takes_train = 'train' in inspect.signature(module.__call__).parameters
  return module(x, **({'train': train} if takes_train else {}))


class Network(nn.Module):
  """Encoder, projector, predictor and probe on images in [0, 1].

  Attributes:
    encoder: maps normalised images f32[B, H, W, C] to embeddings [B, D]; may
      take a keyword `train`.
    projector: maps embeddings to projections.
    predictor: maps projections to predictions.
    probe: maps embeddings to logits, or None.
    mean: subtracted from each channel; empty for images that are normalised.
    std: each channel is divided by it; likewise.
    axis_name: mapped axis over which a training batch is spread, or None.
  """

  encoder: nn.Module
  projector: nn.Module
  predictor: nn.Module
  probe: nn.Module | None
  mean: tuple[float, ...]
  std: tuple[float, ...]
  axis_name: str | None = None

  def encode(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images f32[B, H, W, C] in [0, 1] to embeddings f32[B, D]."""
    with normalization.synchronized(self.axis_name):
      return encode(
          self.encoder, images, mean=self.mean, std=self.std, train=train)

  def project(self, images: jax.Array, *, train: bool = False) -> Outputs:
    """The target side: no prediction, no probe."""
    embedding = self.encode(images, train=train)
    return Outputs(embedding, self.projector(embedding, train=train))

  def __call__(self, images: jax.Array, *, train: bool = False) -> Outputs:
    """The online side."""
    outputs = self.project(images, train=train)
    logits = None
    if self.probe is not None:
      # The probe watches; its gradient must not reach the encoder.
      logits = self.probe(jax.lax.stop_gradient(outputs.embedding))
    prediction = self.predictor(outputs.projection, train=train)
    return outputs.replace(prediction=prediction, logits=logits)


def create_network(
    config: ml_collections.ConfigDict,
    num_classes: int | None,
    encoder: nn.Module | None = None,
    axis_name: str | None = None,
) -> Network:
  """Builds what `config` describes.

  Args:
    config: a valid configuration.
    num_classes: of the online probe; None where there are no labels.
    encoder: takes the place of `config.encoder`.
    axis_name: mapped axis of the training step; None for inference.

  Returns:
    An unbound module.
  """
  of_part = functools.partial(
      normalization.create_normalization, config, axis_name=axis_name)
  if encoder is None:
    encoder = create_encoder(config, axis_name=axis_name)
  has_probe = config.online_probe and num_classes is not None
  return Network(
      encoder=encoder,
      projector=heads.MLP(
          normalization=of_part('projector'), **config.projector),
      # As wide as what it predicts, the projection.
      predictor=heads.MLP(
          normalization=of_part('predictor'), output_size=None,
          **config.predictor),
      probe=heads.probe(num_classes) if has_probe else None,
      mean=tuple(config.augment.mean), std=tuple(config.augment.std),
      axis_name=axis_name)


def create_encoder(
    config: ml_collections.ConfigDict, *, axis_name: str | None = None,
    **options: Any) -> resnet.ResNet:
  """The ResNet that `config` describes.

  Args:
    config: a valid configuration.
    axis_name: see `create_network`.
    **options: more attributes of `ResNet`.
  """
  dtype = jnp.dtype(config.compute_dtype)
  settings = config.resnet.to_dict()
  # `affine_init` starts every residual branch at zero (2010.10241).
  settings['zero_gamma'] |= config.encoder_norm == 'affine_init'
  return resnet.ResNet(
      depth=int(config.encoder.removeprefix('resnet')),
      normalization=normalization.create_normalization(
          config, 'encoder', axis_name=axis_name, dtype=dtype),
      dtype=dtype, remat=config.remat, **settings, **options)


def to_variables(
    network: Network, config: ml_collections.ConfigDict, params: dict[str, Any]
) -> dict[str, Any]:
  """What a network is applied to, made ready for several passes.

  Where a part's norm is `group_ws`, its kernels are standardised here, which
  its layers would do in every pass. A user's own encoder has layers of its own.

  Args:
    network: an unbound module.
    config: of the network.
    params: of the network, or of some of its parts.

  Returns:
    `params`, and where there are any, `standardized` kernels, no longer in it.
  """
  raw, standardized = dict(params), {}
  for part in PARTS:
    is_ours = part != 'encoder' or isinstance(network.encoder, resnet.ResNet)
    if is_ours and part in params and config[f'{part}_norm'] == 'group_ws':
      raw[part], standardized[part] = weight_standardization.split(
          params[part], config.weight_standardization_epsilon)
  return {'params': raw} | (
      {weight_standardization.COLLECTION: standardized} if standardized else {})


def used_types(
    network: Network, config: ml_collections.ConfigDict, params: dict[str, Any]
) -> dict[str, Any]:
  """The type that each parameter is rounded to first of all, where it is used.

  Args:
    network: an unbound module.
    config: of the network.
    params: of the network, or their shapes.

  Returns:
    A tree of types: `config.compute_dtype` of kernels of a ResNet that takes
    them as they are, else the parameter's own.
  """
  def used_type(part: str, kernel: Any) -> Any:
    is_cast = (
        part == 'encoder' and isinstance(network.encoder, resnet.ResNet)
        and config.encoder_norm != 'group_ws' and kernel.ndim > 1)
    return jnp.dtype(config.compute_dtype) if is_cast else kernel.dtype

  return {
      part: jax.tree.map(functools.partial(used_type, part), tree)
      for part, tree in params.items()}


def apply_views(
    network: Network,
    variables: dict[str, Any],
    views: tuple[jax.Array, ...],
    *,
    method: str = '__call__',
    joined: bool = False,
    momentum: float,
    key: jax.Array | None = None,
) -> tuple[tuple[Outputs, ...], Any]:
  """Runs every view through the network in one call, in training mode.

  The views are stacked and mapped over: batch statistics stay per view, as in
  the original, while each synchronised layer needs one collective for both.
  Running statistics end as if the views had passed one after the other.

  Args:
    network: an unbound module.
    variables: `params`, or see `to_variables`; `batch_stats` if it has any.
    views: of equal shape, f32[B, H, W, C] in [0, 1].
    method: of the network.
    joined: take batch statistics over all views together instead.
    momentum: weight of the old running statistics.
    key: for dropout in a user's encoder; each view draws its own.

  Returns:
    The outputs of each view, and the new `batch_stats`.
  """
  def forward(
      images: jax.Array, key: jax.Array | None) -> tuple[Outputs, Any]:
    outputs, updated = network.apply(
        variables, images, train=True, method=method, mutable=['batch_stats'],
        rngs=None if key is None else {'dropout': key})
    return outputs, updated.get('batch_stats', {})

  count = len(views)
  network, views = _normalize(network, views)
  if joined:
    outputs, batch_stats = forward(jnp.concatenate(views), key)
    split = jax.tree.map(lambda x: jnp.split(x, count), outputs)
    return tuple(
        jax.tree.map(lambda x, i=i: x[i], split, is_leaf=_is_list)
        for i in range(count)), batch_stats
  keys = None if key is None else jax.random.split(key, count)
  outputs, per_view = jax.vmap(forward)(jnp.stack(views), keys)
  batch_stats = jax.tree.map(
      functools.partial(_pass_in_order, momentum=momentum),
      variables.get('batch_stats', {}), per_view)
  return tuple(
      jax.tree.map(lambda x, i=i: x[i], outputs)
      for i in range(count)), batch_stats


def _normalize(
    network: Network, views: tuple[jax.Array, ...]
) -> tuple[Network, tuple[jax.Array, ...]]:
  """Normalises views before they are stacked, and says so to the network.

  They are also brought to the encoder's type, so that what is stacked, and
  moved to where convolutions take it from, is half as much in bfloat16.
  """
  dtype = views[0].dtype
  if isinstance(network.encoder, resnet.ResNet):
    dtype = network.encoder.dtype
  return network.clone(mean=(), std=()), tuple(
      normalize(view, mean=network.mean, std=network.std).astype(dtype)
      for view in views)


def _is_list(x: Any) -> bool:
  return isinstance(x, list)


# Traced once for all layers of one shape, as normalisation is.
@functools.partial(jax.jit, inline=True, static_argnames='momentum')
def _pass_in_order(
    old: jax.Array, per_view: jax.Array, *, momentum: float) -> jax.Array:
  """Running statistics after all views, from those after each one alone.

  Each view alone gives r_i = m * old + (1 - m) * s_i. One after the other
  would have given r <- m * r + (1 - m) * s_i = m * r + r_i - m * old. The
  weights sum to one for any `momentum`, whatever the layer's own.
  """
  running = per_view[0]
  for i in range(1, per_view.shape[0]):
    running = momentum * (running - old) + per_view[i]
  return running

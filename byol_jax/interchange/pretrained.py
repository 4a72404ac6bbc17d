"""A pretrained encoder with all that is known of it, to be exported."""

from collections.abc import Mapping
import dataclasses
import functools
import json
from typing import Any

from etils import epath
from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from byol_jax import config as config_lib
from byol_jax.networks import network as network_lib

UNKNOWN_LICENCE = 'unspecified: ask whoever trained it'


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """What an export is made of.

  Attributes:
    config: of the run.
    network: without a mapped axis.
    variables: `params` and `batch_stats` of the online network, NumPy arrays;
      of `params` the encoder and, where there is one, the probe.
    step: of the checkpoint.
    image_size: pixels, where a format fixes it; else what is recommended.
    records: of its evaluations, see `evaluation/records.py`.
    origin: what an imported checkpoint says of where it comes from.
    licence: of the weights.
  """

  config: ml_collections.ConfigDict
  network: network_lib.Network
  variables: Mapping[str, Any]
  step: int
  image_size: int
  records: tuple[dict[str, Any], ...] = ()
  origin: Mapping[str, str] = dataclasses.field(default_factory=dict)
  licence: str = UNKNOWN_LICENCE

  @property
  def num_channels(self) -> int:
    return len(self.network.mean)

  @functools.cached_property
  def embedding_size(self) -> int:
    """D."""
    images = jax.ShapeDtypeStruct(
        (1, self.image_size, self.image_size, self.num_channels), jnp.float32)
    return jax.eval_shape(
        functools.partial(self.network.apply, method='encode'),
        self.variables, images).shape[1]

  @property
  def num_classes(self) -> int | None:
    """Of the online probe; None where there were no labels."""
    probe = self.variables['params'].get('probe')
    return None if probe is None else len(probe['bias'])


def create(
    config: ml_collections.ConfigDict, network: network_lib.Network,
    variables: Mapping[str, Any], *, step: int, image_size: int | None = None,
    **facts: Any,
) -> Pretrained:
  """Takes of `variables` (the online network's) what is exported.

  Args:
    config: of the run.
    network: an unbound module.
    variables: `params` and `batch_stats`.
    step: of the checkpoint.
    image_size: None is the size that the run is evaluated at.
    **facts: the other fields of `Pretrained`.
  """
  parts = ('encoder', 'probe')
  kept = {
      name: {part: tree[part] for part in parts if part in tree}
      for name, tree in variables.items()}
  return Pretrained(
      config, network,
      jax.tree.map(np.asarray, jax.device_get(
          {name: tree for name, tree in kept.items() if tree})),
      step=step,
      image_size=image_size or config_lib.test_image_size(config),
      **facts)


def restore(
    workdir: str, encoder: nn.Module | None = None, *,
    image_size: int | None = None, licence: str = '',
) -> Pretrained:
  """Reads a run's newest checkpoint, its evaluations and its origin.

  Args:
    workdir: of `byol_jax.pretrain` or `byol_jax.import_deepmind`.
    encoder: the module the run was given, where it was given one.
    image_size: see `create`.
    licence: of the weights; '' is the one that an imported checkpoint names.

  Raises:
    ConfigError: if there is no checkpoint, or `encoder` is needed.
  """
  from byol_jax.evaluation import features
  from byol_jax.evaluation import records
  from byol_jax.training import saved_run
  config, network, state = saved_run.restore(workdir, encoder)
  origin = _read_origin(epath.Path(workdir))
  return create(
      config, network, features.online_variables(state),
      step=int(state.step), image_size=image_size,
      records=tuple(records.read_all(workdir)), origin=origin,
      licence=licence or origin.get('licence', UNKNOWN_LICENCE))


def _read_origin(workdir: epath.Path) -> dict[str, str]:
  path = workdir / 'origin.json'
  if not path.is_file():
    return {}
  try:
    origin = json.loads(path.read_text())
  except ValueError as error:
    raise config_lib.ConfigError(
        f'{path} is no JSON ({error}): mend it, or remove it') from None
  return {name: str(value) for name, value in origin.items()}

"""The folder in which an encoder travels to JAX and Flax.

    model.safetensors   parameters and running statistics, by their path:
                        params.encoder.stem_conv.kernel
    config.json         what it is, and the config of the run
    README.md           its card

`byol_jax.load_encoder(FOLDER)` reads it. There is no training state in it, and
nothing that saved or trained it is needed to read it.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import functools
import hashlib
import json
from typing import Any

from etils import epath
from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import safetensors
import safetensors.numpy

from byol_jax import config as config_lib
from byol_jax import config_rules
from byol_jax.interchange import model_card
from byol_jax.interchange import pretrained as pretrained_lib
from byol_jax.networks import network as network_lib

WEIGHTS = 'model.safetensors'
_KIND = 'flax'
# What an encoder depends on. An export outlives the other fields of a config.
_FIELDS = (
    'encoder', 'resnet.', 'norm_', 'weight_standardization_', 'batch_norm_',
    'compute_dtype', 'augment.mean', 'augment.std')
# What a config.json says of the run, at least, and in which of JSON's types.
_RUN = {
    'config': dict, 'step': int, 'image_size': int, 'licence': str,
    'origin': dict, 'evaluations': list}

_USAGE = """\
```python
from byol_jax import load_encoder

encode = load_encoder('.')  # this folder
embeddings = encode(images)  # f32[B, H, W, {num_channels}] in [0, 1]
```

A function of JAX: it works within `jax.jit`, `jax.vmap`, `jax.pmap` and
`jax.grad`; `encode.variables` are its weights.
"""

_CUSTOM_USAGE = """\
Its encoder is a module of the run's author, `{encoder}`, which has to be given:
`byol_jax.load_encoder(FOLDER, encoder={encoder}(...))`.
"""


def check(encoder: pretrained_lib.Pretrained) -> None:
  """Every encoder can be written."""
  del encoder


def write(
    folder: epath.PathLike, encoder: pretrained_lib.Pretrained) -> None:
  """Writes an encoder into a folder that is there."""
  weights = safetensors.numpy.save({
      '.'.join(path): np.ascontiguousarray(leaf)
      for path, leaf in _encoder_leaves(encoder.variables).items()})
  (epath.Path(folder) / WEIGHTS).write_bytes(weights)
  usage = _USAGE.format(num_channels=encoder.num_channels)
  if _is_custom(encoder.config):
    usage += '\n' + _CUSTOM_USAGE.format(encoder=encoder.config.encoder)
  model_card.write(
      folder, encoder, kind=_KIND, usage=usage,
      facts={'sha256': hashlib.sha256(weights).hexdigest()})


def is_export(folder: epath.PathLike) -> bool:
  """Whether it is a folder of an export, of any format, and no workdir."""
  folder = epath.Path(folder)
  if (folder / 'checkpoints').is_dir():
    return False
  return (folder / WEIGHTS).is_file() or 'run' in _read_facts(folder)


def read(
    folder: epath.PathLike, encoder: nn.Module | None = None
) -> pretrained_lib.Pretrained:
  """Reads what `write` has written.

  Args:
    folder: the export.
    encoder: the Flax module, where the run was given one.

  Returns:
    The encoder; of its config, only the fields that it depends on.

  Raises:
    ConfigError: if it is of another format, cut short, damaged, of another
      architecture than its config says, or if `encoder` is needed.
  """
  folder = epath.Path(folder)
  facts = _read_facts(folder)
  if facts.get('format') != _KIND:
    raise config_lib.ConfigError(
        f'{folder} is no export of format flax (its config.json says '
        f'{facts.get("format", "nothing of a format")!r}): load_encoder reads '
        'a workdir, or what python -m byol_jax.export --format=flax has '
        'written')
  run = _checked_run(facts.get('run', {}), folder)
  with _describing(folder):
    config = _read_config(run['config'])
  if _is_custom(config) and encoder is None:
    raise config_lib.ConfigError(
        f'{folder} was pretrained with a custom encoder, {config.encoder}: '
        'pass encoder=')
  with _describing(folder):
    config_rules.validate(config, custom_encoder=_is_custom(config))
  network = network_lib.create_network(
      config, None, encoder if _is_custom(config) else None)
  leaves = _read_weights(folder / WEIGHTS, facts.get('sha256'))
  _check_leaves(leaves, network, run['image_size'], folder)
  return pretrained_lib.Pretrained(
      config, network, traverse_util.unflatten_dict(leaves), step=run['step'],
      image_size=run['image_size'], licence=run['licence'],
      origin=run['origin'], records=tuple(run['evaluations']))


def _checked_run(run: Any, folder: epath.Path) -> dict[str, Any]:
  """Raises ConfigError for what is missing, or of another type."""
  wrong = None
  if not isinstance(run, dict):
    wrong = f'says run is {run!r:.40}, expected an object'
  elif missing := [name for name in _RUN if name not in run]:
    wrong = f'does not say the {missing[0]} of its run'
  else:
    for name, kind in _RUN.items():
      # To Python, true is a number.
      if not isinstance(run[name], kind) or isinstance(run[name], bool):
        wrong = (f'says {name} is {run[name]!r:.40}, expected a value of type '
                 f'{kind.__name__}')
        break
    else:
      if run['image_size'] < 1:
        wrong = f'says image_size is {run["image_size"]}, expected at least 1'
  if wrong:
    raise config_lib.ConfigError(
        f'{folder}/config.json {wrong}: it is damaged; copy or export it again')
  return run


def _read_config(fields: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """The fields that an encoder depends on; the others have their defaults."""
  config = config_lib.from_dict({
      name: value for name, value in config_lib.flatten(fields).items()
      if name.startswith(_FIELDS)})
  for name, value in config_lib.flatten(config.to_dict()).items():
    if isinstance(value, tuple) and name.startswith(_FIELDS) and not all(
        isinstance(number, (int, float)) for number in value):
      raise config_lib.ConfigError(
          f'config.{name} is {value}, expected numbers')
  return config


@contextlib.contextmanager
def _describing(folder: epath.Path) -> Iterator[None]:
  """Says whose config it is that cannot be."""
  try:
    yield
  except config_lib.ConfigError as error:
    raise config_lib.ConfigError(
        f'{folder}/config.json does not describe an encoder ({error}): it is '
        'damaged; copy or export it again') from None


def _is_custom(config: Any) -> bool:
  return config.encoder not in config_rules.ENCODERS


def _encoder_leaves(
    variables: Mapping[str, Any]) -> dict[tuple[str, ...], np.ndarray]:
  return traverse_util.flatten_dict({
      name: {'encoder': tree['encoder']} for name, tree in variables.items()
      if 'encoder' in tree})


def _read_facts(folder: epath.Path) -> dict[str, Any]:
  path = folder / 'config.json'
  try:
    facts = json.loads(path.read_text())
  except FileNotFoundError:
    return {}
  except ValueError as error:
    raise config_lib.ConfigError(
        f'{path} is no JSON ({error}): it is cut short or damaged; copy the '
        'folder again') from None
  return facts if isinstance(facts, dict) else {}


def _read_weights(
    path: epath.Path, sha256: str | None
) -> dict[tuple[str, ...], np.ndarray]:
  try:
    data = path.read_bytes()
    leaves = safetensors.numpy.load(data)
  except FileNotFoundError:
    raise config_lib.ConfigError(
        f'{path} is not there: copy the folder again') from None
  except safetensors.SafetensorError as error:
    raise config_lib.ConfigError(
        f'{path} ({len(data)} bytes) is cut short or damaged ({error}): copy '
        'or export it again') from None
  if hashlib.sha256(data).hexdigest() != sha256:
    raise config_lib.ConfigError(
        f'{path} is damaged: its SHA-256 is not the one in config.json; copy '
        'or export it again')
  return {tuple(name.split('.')): leaf for name, leaf in leaves.items()}


def _check_leaves(
    leaves: Mapping[tuple[str, ...], np.ndarray], network: network_lib.Network,
    image_size: int, folder: epath.Path,
) -> None:
  """Raises ConfigError at the first array that the network has not so."""
  images = jax.ShapeDtypeStruct(
      (1, image_size, image_size, len(network.mean)), jnp.float32)
  wanted = {
      path: leaf.shape for path, leaf in _encoder_leaves(jax.eval_shape(
          functools.partial(network.init, method='encode'),
          jax.random.key(0), images)).items()}
  found = {path: leaf.shape for path, leaf in leaves.items()}
  for path in sorted(wanted | found):
    if wanted.get(path) != found.get(path):
      raise config_lib.ConfigError(
          f'{folder} holds an encoder of another architecture than its '
          f'config.json says: {".".join(path)} has the shape '
          f'{found.get(path, "(not there)")} in {WEIGHTS} and '
          f'{wanted.get(path, "(not there)")} in the network')

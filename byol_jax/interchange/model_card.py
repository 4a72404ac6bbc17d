"""The card that every export carries, README.md, and its facts, config.json.

After Mitchell et al. 2019 (arXiv:1810.03993): what it is, how it was trained,
what it expects, what was measured, whose it is.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import byol_jax
from byol_jax import config as config_lib
from byol_jax.interchange import pretrained as pretrained_lib

_CARD = """\
# {title}

Maps images to embeddings of {embedding_size} numbers. Pretrained without labels
by byol_jax; this folder is its export of format `{format}`.

## Load

{usage}
## Input

- Images: float32, RGB, [0, 1], {size}.
- Normalisation: {normalised}. Mean {mean}, standard deviation {std}, per
  channel.
- Padding of convolutions and pooling: {padding}.

## Pretraining

| | |
|---|---|
{pretraining}

Every setting is in `config.json`.

## Evaluation

{evaluation}

## Origin and licence

{origin}Licence of the weights: {licence}.
"""

_PADDINGS = {
    'torch': '`torch`, both sides alike',
    'same': '`same`, the odd pixel to the right and below'}


def write(
    folder: str | pathlib.Path, encoder: pretrained_lib.Pretrained, *,
    kind: str, usage: str, normalised: bool = True,
    size: str = '', facts: Mapping[str, Any] | None = None,
) -> None:
  """Writes README.md and config.json into a folder that is there.

  Args:
    folder: of the export.
    encoder: what is exported.
    kind: the export's format.
    usage: Markdown that says how to load it.
    normalised: whether the export normalises images itself.
    size: the shape of the images; '' is any size, channels last.
    facts: further entries of config.json, after its `format`.
  """
  folder = pathlib.Path(folder)
  facts = {'format': kind, **(facts or {}), 'run': describe(encoder)}
  (folder / 'config.json').write_text(json.dumps(facts, indent=2) + '\n')
  config = encoder.config
  (folder / 'README.md').write_text(_CARD.format(
      title=_title(encoder), embedding_size=encoder.embedding_size,
      format=kind, usage=usage,
      size=size or f'[B, H, W, {encoder.num_channels}], any size',
      normalised='done inside' if normalised else 'yours to do',
      mean=list(config.augment.mean), std=list(config.augment.std),
      padding=_PADDINGS[config.resnet.padding],
      pretraining='\n'.join(
          f'| {name} | {value} |' for name, value in _pretraining(encoder)),
      evaluation=_evaluation(encoder.records),
      origin=''.join(
          f'{name}: {value}\n\n' for name, value in encoder.origin.items()
          if name != 'licence'),
      licence=encoder.licence))


def describe(encoder: pretrained_lib.Pretrained) -> dict[str, Any]:
  """What config.json holds of the run, in JSON's types."""
  config = config_lib.to_dict(encoder.config)
  config['data'] = _without_place(config['data'])
  for field in ('data_dir', 'init_from'):
    config[field] = pathlib.PurePath(config[field]).name
  config['semi_supervised']['subsets'] = []  # of evaluations, not of the run
  return {
      'byol_jax': byol_jax.__version__,
      'step': encoder.step,
      'image_size': encoder.image_size,
      'embedding_size': encoder.embedding_size,
      'licence': encoder.licence,
      'origin': dict(encoder.origin),
      'evaluations': [record | {
          'data': _without_place(record['data']), 'checkpoint': ''}
          for record in encoder.records],
      'config': config}


def _without_place(data: str) -> str:
  """Of a path, its name alone: the rest is nobody's business elsewhere."""
  kind, colon, place = data.partition(':')
  if '/' not in place or kind == 'tfds':
    return data
  return kind + colon + pathlib.PurePath(place).name


def _title(encoder: pretrained_lib.Pretrained) -> str:
  config = encoder.config
  width = config.resnet.width
  return config.encoder + (f', width {width:g}' if width != 1 else '')


def _pretraining(encoder: pretrained_lib.Pretrained) -> list[tuple[str, Any]]:
  """What a reader asks first of a run."""
  config = encoder.config
  length = (
      f'{config.total_steps} steps' if config.total_steps is not None
      else f'{config.num_epochs:g} epochs')
  return [
      ('method', f'target `{config.target}`, base tau {config.base_tau:g}, '
       f'beta {config.beta:g}'),
      ('data', f'`{_without_place(config.data)}`, split '
       f'`{config.train_split}`'),
      ('length', f'step {encoder.step}, of a run set to {length}'),
      ('batch size', config.batch_size),
      ('image size', f'{config.image_size} pixels, two views'),
      ('optimizer', f'{config.optimizer}, base learning rate '
       f'{config.base_learning_rate:g}, weight decay '
       f'{config.weight_decay:g}'),
      ('encoder', f'{_title(encoder)}, stem `{config.resnet.stem}`, '
       f'normalisation `{config.encoder_norm}`, epsilon '
       f'{config.norm_epsilon:g}'),
      ('projector', f'{config.projector.depth} layers, '
       f'`{config.projector_norm}`'),
      ('predictor', f'{config.predictor.depth} layers, '
       f'`{config.predictor_norm}`'),
      ('computed in', config.compute_dtype)]


def _evaluation(records: tuple[dict[str, Any], ...]) -> str:
  if not records:
    return (
        'None is recorded. `python -m byol_jax.evaluate --checkpoint=WORKDIR` '
        'makes some.')
  # What reads an export needs none of this.
  from byol_jax.evaluation import records as records_lib
  lines = [
      'Of the frozen encoder unless the protocol says otherwise; shares in '
      'percent. `24 px of 32` are the middle 24 pixels of an image whose '
      'shorter side was resized to 32.\n',
      '| encoder | protocol | data | figures |', '|---|---|---|---|']
  for record in records:
    who = (
        'random init' if record['random_init'] else f'step {record["step"]}')
    figures = ', '.join(
        f'{name} {records_lib.format_figure(name, value)}'
        for name, value in records_lib.figures(record).items())
    description = record.get('description', record['protocol'])
    data = records_lib.describe_data(
        record | {'data': _without_place(record['data'])})
    lines.append(f'| {who} | {description} | {data} | {figures} |')
  return '\n'.join(lines)

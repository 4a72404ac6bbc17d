"""BYOL's ablations: one named change each, beside the figure of the paper.

    python -m byol_jax.pretrain --config=configs/ablations.py:NAME[,BASE] \
        --workdir=runs/NAME
    python -m configs.ablations [WORD]  # lists every name, or those with WORD
    python -m configs.ablations --check NAME,BASE ...  # complains of a slip

| BASE | what the change is made to |
|---|---|
| imagenet | the default, the paper's setting: 300 epochs, batch 4096 |
| cifar10 | `get_study_config()`: the quickstart, shortened for a study |

| names | source (arXiv 2006.07733 unless another is named) |
|---|---|
| byol | the baseline: tau scheduled from 0.99, a predictor of 2 layers |
| tau_0, tau_1, tau_scheduled_*, tau_constant_* | Table 5a |
| predictor_learning_rate_* (with tau 0) | Table 21 |
| no_predictor, no_target, simclr and their combinations | Table 5b |
| stop_gradient, no_predictor_stop_gradient, *_beta_1 | Table 19 |
| beta_*, beta_*_temperature_* | Table 18 |
| predictor_linear, predictor_3_layers, projector_*_predictor_* | Table 14 |
| projection_size_* | Table 14 |
| head_width_* | not in the paper |
| loss_layer, loss_batch, loss_none | Table 20 |
| batch_over_* (by accumulation), true_batch_* | Table 16, appendix G |
| no_*, crops_*, symmetric_views | Table 17 |
| learning_rate_*, weight_decay_*, lars_without_masks | Table 15 |
| norms_ENCODER_PROJECTOR_PREDICTOR, norms_X (X in all) | arXiv 2010.10241 |
| simclr_norms_ENCODER_PROJECTOR, simclr_norms_X | arXiv 2010.10241 |

`python -m configs.ablations` says for each its row, its figure and the fields
that it sets. `config.name` and `config.published` carry them into the run.

Cost: on `imagenet` 300 epochs of a ResNet-50, on `cifar10` minutes.
Expected: `config.published`, linear top-1 on ImageNet after 300 epochs,
published and not measured here, whatever the base. Where a figure is not
verified, or the row that it belongs to was reconstructed, the text says so. Of
2010.10241 only the abstract was read: its tables are unknown here.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import difflib
import itertools
import sys
import types
from typing import Any

import ml_collections

from byol_jax import config as config_lib
from configs import imagenet_resnet50
from configs import quickstart

Fields = Mapping[str, Any]  # by their names with dots


@dataclasses.dataclass(frozen=True)
class Ablation:
  """One change to the baseline.

  Attributes:
    source: table and row, and how sure they are.
    published: linear top-1 on ImageNet; '' where no figure is known.
    fields: what is set, and nothing else.
    not_on_cifar10: why the change makes no sense on that base; '' if it
      does.
  """

  source: str
  published: str = ''
  fields: Fields = dataclasses.field(default_factory=dict)
  not_on_cifar10: str = ''


def _constant_tau(tau: float) -> Fields:
  return {'base_tau': tau, 'tau_schedule': 'constant'}


def _views(**settings: float) -> Fields:
  """The same settings for both views."""
  return {
      f'augment.{view}.{name}': value
      for view in ('view1', 'view2') for name, value in settings.items()}


def _norms(*norms: str) -> Fields:
  """Of encoder, projector and predictor, or of the first of them."""
  parts = ('encoder', 'projector', 'predictor')[:len(norms)]
  return {
      f'{part}_norm': norm
      for part, norm in zip(parts, norms, strict=True) if norm != 'batch'}


def _norms_name(*norms: str) -> str:
  """norms_batch_none_layer; norms_none where all are the same."""
  return '_'.join(('norms', *(norms if len(set(norms)) > 1 else norms[:1])))


_NO_PREDICTOR = {'predictor.depth': 0}
_STOP_GRADIENT = {'target': 'stop_gradient'}
_NO_TARGET = {'target': 'online'}
_SIMCLR = _NO_PREDICTOR | _NO_TARGET | {'beta': 1.0}

_TAU = {
    'tau_0': Ablation(
        'Table 5a, tau 0 constant, stop gradient of online; but Table 21 has '
        '5.5 for it, and so has Table 19 for stop_gradient', '0.3',
        _constant_tau(0.0)),
    'tau_1': Ablation(
        'Table 5a, tau 1, constant random network', '18.8 +- 0.7',
        _constant_tau(1.0)),
    'tau_scheduled_0.9': Ablation(
        'Table 5a, tau 0.9; scheduled as the baseline is, by inference',
        '68.4', {'base_tau': 0.9}),
    'tau_scheduled_0.999': Ablation(
        'Table 5a, tau 0.999; scheduled as the baseline is, by inference',
        '69.8', {'base_tau': 0.999}),
    **{f'tau_constant_{tau}': Ablation(
        f'beside Table 5a, tau {tau}, whose row is taken to be scheduled',
        '', fields)
       for tau, fields in (
           (0.9, _constant_tau(0.9)),
           (0.99, {'tau_schedule': 'constant'}),  # the baseline's own 0.99
           (0.999, _constant_tau(0.999)))},
    **{f'predictor_learning_rate_{factor}': Ablation(
        f'Table 21, tau 0 and the predictor\'s rate x {factor}', published,
        _constant_tau(0.0) | {
            'predictor_learning_rate_multiplier': float(factor)})
       for factor, published in (
           (0, '0.01'), (2, '62.8'), (10, '66.6'), (20, '66.3'))},
}

# The marks of these rows were reconstructed; their figures were read in order.
_RECONSTRUCTED = 'check-marks reconstructed'
_LOST = (
    'Table 19, stop gradient and beta 1: three figures, whose predictor marks '
    'are lost')
_PARTS = {
    'no_predictor': Ablation(
        f'Table 5b, target only, beta 0: Mean Teacher; {_RECONSTRUCTED}',
        '0.2', _NO_PREDICTOR),
    'no_target': Ablation(
        f'Table 5b, predictor only, beta 0; {_RECONSTRUCTED}', '0.3',
        _NO_TARGET),
    'no_predictor_no_target': Ablation(
        f'Table 5b, neither, beta 0; {_RECONSTRUCTED}', '0.1',
        _NO_PREDICTOR | _NO_TARGET),
    'no_predictor_beta_1': Ablation(
        f'Table 5b, target only, beta 1; {_RECONSTRUCTED}', '70.7',
        _NO_PREDICTOR | {'beta': 1.0}),
    'no_target_beta_1': Ablation(
        'Table 5b, predictor only, beta 1; Table 19 has 69.0; '
        f'{_RECONSTRUCTED}', '69.1', _NO_TARGET | {'beta': 1.0}),
    'simclr': Ablation(
        f'Table 5b, neither, beta 1: SimCLR; {_RECONSTRUCTED}', '69.4',
        _SIMCLR),
    'stop_gradient': Ablation(
        'Table 19, stop gradient, predictor, beta 0; predictor mark '
        'reconstructed, Table 21 has the same', '5.5', _STOP_GRADIENT),
    'no_predictor_stop_gradient': Ablation(
        'Table 19, stop gradient, no predictor, beta 0; predictor mark '
        'reconstructed', '0.1', _NO_PREDICTOR | _STOP_GRADIENT),
    'stop_gradient_beta_1': Ablation(
        _LOST, '70.2, 70.1 or 69.2', _STOP_GRADIENT | {'beta': 1.0}),
    'no_predictor_stop_gradient_beta_1': Ablation(
        _LOST, '70.2, 70.1 or 69.2',
        _NO_PREDICTOR | _STOP_GRADIENT | {'beta': 1.0}),
}

# Temperature 0.1 is the baseline's own: beta_1 is beta 1 with 0.1.
_BETA = {
    f'beta_{beta:g}' + ('' if temperature == 0.1 else
                        f'_temperature_{temperature:g}'): Ablation(
        f'Table 18, beta {beta:g}, temperature {temperature:g}', published,
        {'beta': beta} | ({} if temperature == 0.1 else
                          {'temperature': temperature}))
    for beta, row in (
        (0.1, ('72.2', '72.4', '72.7', '72.6', '72.5', '72.5')),
        (0.5, ('70.9', '72.0', '72.7', '72.7', '72.6', '72.5')),
        (1.0, ('53.9', '70.9', '72.7', '72.7', '72.6', '72.6')))
    for temperature, published in zip(
        (0.01, 0.1, 0.3, 1.0, 3.0, 10.0), row, strict=True)}

_HEADS = {
    'predictor_linear': Ablation(
        'Table 14, projector 2, predictor 1', '71.5', {'predictor.depth': 1}),
    'predictor_3_layers': Ablation(
        'Table 14, projector 2, predictor 3', '71.4', {'predictor.depth': 3}),
    **{f'projector_{projector}_predictor_{predictor}': Ablation(
        f'Table 14, projector {projector}, predictor {predictor}', published,
        {'projector.depth': projector} | (
            {} if predictor == 2 else {'predictor.depth': predictor}))
       for projector, row in (
           (1, ('61.9', '65.0', '65.7')), (3, ('71.4', '72.1', '72.1')))
       for predictor, published in enumerate(row, start=1)},
    **{f'projection_size_{size}': Ablation(
        f'Table 14, projection of {size}', published,
        {'projector.output_size': size},
        'its projection has 128 already' if size == 128 else '')
       for size, published in (
           (16, '69.9'), (32, '71.3'), (64, '72.2'), (128, '72.5'),
           (512, '72.6'))},
    **{f'head_width_{width}': Ablation(
        'not in the paper: hidden layers of both heads', '',
        {'projector.hidden_size': width, 'predictor.hidden_size': width})
       for width in (256, 1024, 2048)},
}

_LOSS = {
    f'loss_{normalization}': Ablation(
        f'Table 20, {normalization} in place of l2', published,
        {'loss_normalization': normalization})
    for normalization, published in (
        ('layer', '72.5'), ('batch', '65.3'), ('none', '67.4'))}

# The paper's small batches share batch statistics only among 4096 / N images
# and average N gradients; an update still sees 4096. A true batch does not.
_BATCH = {
    **{f'batch_over_{count}': Ablation(
        f'Table 16, batch {4096 // count} by accumulation', published,
        {'accumulation_steps': count},
        f'its micro-batches would have {128 // count} images'
        if count > 16 else '')
       for count, published in (
           (2, '72.4'), (4, '72.2'), (8, '72.2'), (16, '71.8'),
           (32, '69.6 +- 0.5'), (64, '59.7 +- 1.5'))},
    'true_batch_512': Ablation(
        'appendix G, its own recipe of 1000 epochs', '73.7',
        {'batch_size': 512, 'num_epochs': 1000, 'base_learning_rate': 0.4,
         'base_tau': 0.9995, 'weight_decay': 1.5e-6},
        'its batch is 128 already'),
    **{f'true_batch_{size}': Ablation(
        'not in the paper; the rate scales with the batch, tau does not', '',
        {'batch_size': size}) for size in (32, 64, 256)},
}

_NO_COLOR = _views(jitter_prob=0.0, grayscale_prob=0.0)
_NO_FLIP = _views(flip_prob=0.0)
_NO_BLUR = _views(blur_prob=0.0)
_NO_BLUR_IN_VIEW2 = {'augment.view2.blur_prob': 0.0}
_NO_SOLARIZE = {'augment.view2.solarize_prob': 0.0}  # view 1 has none
_NEITHER = 'its views have neither blur nor solarization'
_INFERRED = 'solarization taken to be removed too'
_VIEWS = {
    'no_flip': Ablation('Table 17, no flip', '71.9', _NO_FLIP),
    'no_blur': Ablation('Table 17, no blur', '71.2', _NO_BLUR, _NEITHER),
    'no_color': Ablation(
        'Table 17, no colour: jitter and grayscale', '63.4', _NO_COLOR),
    'no_jitter': Ablation(
        'Table 17, no jitter', '71.8', _views(jitter_prob=0.0)),
    'no_grayscale': Ablation(
        'Table 17, no grayscale', '70.3', _views(grayscale_prob=0.0)),
    'no_blur_in_view2': Ablation(
        'Table 17, no blur in T\'', '72.4', _NO_BLUR_IN_VIEW2, _NEITHER),
    'no_solarize_in_view2': Ablation(
        'Table 17, no solarize in T\'', '72.3', _NO_SOLARIZE, _NEITHER),
    'no_blur_no_solarize_in_view2': Ablation(
        'Table 17, neither blur nor solarize in T\'', '72.2',
        _NO_BLUR_IN_VIEW2 | _NO_SOLARIZE, _NEITHER),
    'symmetric_views': Ablation(
        'Table 17, both views alike: blur 0.5, solarize 0.2', '72.5',
        {'augment.view1.blur_prob': 0.5, 'augment.view2.blur_prob': 0.5,
         'augment.view1.solarize_prob': 0.2},
        'its views are alike already'),
    'crops_only': Ablation(
        'Table 17, crop only', '59.4',
        _NO_FLIP | _NO_COLOR | _NO_BLUR | _NO_SOLARIZE),
    'crops_flip': Ablation(
        f'Table 17, crop and flip; {_INFERRED}', '60.1',
        _NO_COLOR | _NO_BLUR | _NO_SOLARIZE,
        f'{_NEITHER}: it would be no_color'),
    'crops_color': Ablation(
        f'Table 17, crop and colour; {_INFERRED}', '70.7',
        _NO_FLIP | _NO_BLUR | _NO_SOLARIZE, f'{_NEITHER}: it would be no_flip'),
    'crops_blur': Ablation(
        f'Table 17, crop and blur; {_INFERRED}', '61.1',
        _NO_FLIP | _NO_COLOR | _NO_SOLARIZE,
        f'{_NEITHER}: it would be crops_only'),
}

_SGD = 'its optimizer is SGD, and the row is of LARS'
_OPTIMIZER = {
    **{f'learning_rate_{rate}': Ablation(
        f'Table 15, base learning rate {rate}', published,
        {'base_learning_rate': float(rate)}, _SGD)
       for rate, published in (
           ('0.01', '34.8'), ('0.1', '65.0'), ('0.2', '71.7'),
           ('0.4', '72.3'), ('0.5', '71.5'), ('1', '69.4'))},
    **{f'weight_decay_{decay}': Ablation(
        f'Table 15, weight decay {decay}', published,
        {'weight_decay': float(decay)}, _SGD)
       for decay, published in (
           ('1e-7', '72.1'), ('5e-7', '72.6'), ('5e-6', '71.0'),
           ('1e-5', '69.6'))},
    'weight_decay_0': Ablation(
        'beside Table 15, weight decay 0', 'unstable, diverges',
        {'weight_decay': 0.0}, _SGD),
    'lars_without_masks': Ablation(
        'not in the paper; biases and norms decay and adapt as kernels do',
        '', {'exclude_bias_and_norm': False}, _SGD),
}

_SECOND_HAND = 'from a secondary source, not verified'
# Of 2010.10241, what is known; every other cell of its tables is unknown here.
_NORM_SOURCES = {
    'norms_none': (
        '0.1',
        f'no norm, default initial values, 300 epochs; {_SECOND_HAND}'),
    'norms_layer': (
        '', 'its tables were not seen; a blog found no rescue in layer norm, '
        'in another code base, not verified'),
    'norms_batch_none_none': (
        '72.1', f'batch norm in the encoder only; {_SECOND_HAND}'),
    'norms_affine_init': (
        '65.7',
        f'no norm, initial values from data; {_SECOND_HAND}, epochs unknown'),
    'norms_group_ws': (
        '73.9',
        'abstract: verified, but for a longer run, taken to be 1000 epochs'),
    'simclr_norms_none': (
        '', 'SimCLR without norms; secondary sources contradict each other: '
        'reasonable, or a failure'),
}


def _norm_ablations(
    combinations: Iterable[tuple[str, ...]], prefix: str = '',
    fields: Fields = types.MappingProxyType({}),
) -> dict[str, Ablation]:
  """One for each combination but batch norm everywhere: byol, or simclr."""
  ablations = {}
  for norms in combinations:
    name = prefix + _norms_name(*norms)
    figure, source = _NORM_SOURCES.get(name, ('', 'its tables were not seen'))
    # Normalising a single number leaves nothing of it.
    reason = 'its last feature map is 1x1' if 'instance' in norms else ''
    if _norms(*norms):
      ablations[name] = Ablation(
          f'2010.10241, {source}', figure, {**fields, **_norms(*norms)},
          reason)
  return ablations


_GRID = ('batch', 'layer', 'none')
_NORMALIZATION = {
    **_norm_ablations(itertools.product(_GRID, repeat=3)),
    **_norm_ablations(
        (norm,) * 3
        for norm in ('group_ws', 'affine_init', 'instance', 'batch_local')),
    **_norm_ablations(
        itertools.product(_GRID, repeat=2), 'simclr_', _SIMCLR),
}

ABLATIONS: Mapping[str, Ablation] = {
    'byol': Ablation('Table 5b, predictor and target, beta 0', '72.5'),
    **_TAU, **_PARTS, **_BETA, **_HEADS, **_LOSS, **_BATCH, **_VIEWS,
    **_OPTIMIZER, **_NORMALIZATION}


def get_study_config() -> ml_collections.ConfigDict:
  """The base `cifar10`: the quickstart, small enough for a grid of runs.

  Half its width and half its epochs: a run takes under three minutes on two
  CPU cores, and two seeds of the thirteen rows about 70.
  """
  config = quickstart.get_config()
  config.num_epochs = 5
  config.resnet.width = 0.25
  config.norm_groups = 4  # of 16 channels and more: four each, as in the paper
  return config


BASES = {
    'imagenet': lambda: imagenet_resnet50.get_config('300'),
    'cifar10': get_study_config,
}


def published(name: str) -> str:
  """The paper's figure and where it is from: '18.8 +- 0.7 (Table 5a, ...)'."""
  ablation = ABLATIONS[name]
  return f'{ablation.published or "no known figure"} ({ablation.source})'


def describe(name: str) -> str:
  """The name, the paper's figure, table and row, and the fields it sets."""
  ablation = ABLATIONS[name]
  sets = ', '.join(f'{k}={v!r}' for k, v in ablation.fields.items())
  lines = [name, f'  {published(name)}', f'  sets {sets or "nothing"}']
  if ablation.not_on_cifar10:
    lines.append(f'  not on cifar10: {ablation.not_on_cifar10}')
  return '\n'.join(lines)


def get_config(argument: str = 'byol') -> ml_collections.ConfigDict:
  """Returns the base with one change.

  Args:
    argument: `NAME` or `NAME,BASE`: of `ABLATIONS` and of `BASES`.

  Raises:
    ValueError: if there is no such name or base, or the name makes no
      sense on the base.
  """
  name, _, base = argument.partition(',')
  base = base or 'imagenet'
  if name not in ABLATIONS:
    close = difflib.get_close_matches(name, ABLATIONS, n=1)
    hint = f'did you mean {close[0]}? ' if close else ''
    raise ValueError(
        f'no ablation {name!r}: {hint}expected one of {", ".join(ABLATIONS)}; '
        '`python -m configs.ablations` explains them')
  if base not in BASES:
    raise ValueError(f'no base {base!r}, expected one of {", ".join(BASES)}')
  ablation = ABLATIONS[name]
  if base == 'cifar10' and ablation.not_on_cifar10:
    raise ValueError(
        f'the ablation {name} makes no sense on cifar10: '
        f'{ablation.not_on_cifar10}; use {name},imagenet')
  config = BASES[base]()
  config.name = name
  config.published = published(name)
  for field, value in ablation.fields.items():
    config_lib.set_field(config, field, value)
  return config


def main(arguments: Sequence[str]) -> str | None:
  """Lists ablations, or checks those after `--check`.

  Returns:
    The first slip, in one line, as `sys.exit` takes it; None if there is none.
  """
  if arguments[:1] == ['--check']:
    try:
      for argument in arguments[1:]:
        get_config(argument)
    except ValueError as error:
      return f'error: {error}'
    return None
  word = arguments[0] if arguments else ''
  print('\n'.join(describe(name) for name in ABLATIONS if word in name))
  return None


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

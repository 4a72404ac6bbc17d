"""Whether a run has collapsed: the signs, in words, and the known causes.

A run has collapsed where embeddings or projections are nearly one point, or
embeddings use hardly a direction. Projections that use two or three, and are
spread along them, are a sign of another kind: dimensional collapse (Jing et al.
2022, "Understanding dimensional collapse"), which the encoder below may
survive.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import math
from typing import Any

import ml_collections

from byol_jax import config_rules

# Below these a figure is a sign of collapse. ResNets of depth 10 to 50, just
# initialised, have embeddings above 0.3 and projections above 0.75 with batch
# statistics, both above 0.25 without any normalisation, above 0.12 with layer
# norm, and above 40 directions; runs that collapse end below 0.05. Embeddings
# follow a ReLU, so their mean is far from zero and their spread is lower than
# that of projections. Figures of whole test images (diagnostics/) are lower
# than those of views (train/), whose running statistics they are normalised
# with: 0.15 where training has 0.8.
THRESHOLDS = {
    'train/embedding_std': 0.05,
    'train/projection_std': 0.1,
    'diagnostics/embedding_std': 0.02,
    'diagnostics/projection_std': 0.05,
    'diagnostics/embedding_rank': 3.0,
    'diagnostics/projection_rank': 3.0,
}
_OF_FEW_DIRECTIONS = 'diagnostics/projection_rank'
# Fewer than this are one: a line is no space to tell images apart in.
_A_LINE = 1.5


def find_signs(metrics: Mapping[str, float]) -> dict[str, str]:
  """Says what in a row of metrics looks like collapse.

  Args:
    metrics: whatever of `THRESHOLDS` it holds is looked at.

  Returns:
    A sentence for each metric that is a bad sign; none for a healthy run.
  """
  signs = {}
  for name, threshold in THRESHOLDS.items():
    value = metrics.get(name)
    if value is None or not value < threshold:  # NaN is another trouble
      continue
    what = name.split('/')[1].split('_')[0]
    if name.endswith('std'):
      signs[name] = (
          f'{what}s are collapsing to a point: {name} is below {threshold:g} '
          '(healthy: 0.3 to 1)')
    else:
      signs[name] = (
          f'{what}s use fewer than {threshold:g} directions: {name} is below '
          f'{threshold:g} (healthy: tens)')
  return signs


def judge(metrics: Mapping[str, float]) -> dict[str, Any]:
  """What `result.json` says of it.

  Args:
    metrics: see `find_signs`.

  Returns:
    `collapsed`, and `signs`, sentences: there may be some of few directions
    where nothing has collapsed. Nothing where nothing was measured.
  """
  if not metrics.keys() & THRESHOLDS.keys():
    return {}
  signs = find_signs(metrics)
  few = metrics.get(_OF_FEW_DIRECTIONS, math.inf)
  return {
      'collapsed': bool(signs.keys() - {_OF_FEW_DIRECTIONS}) or few < _A_LINE,
      'signs': list(signs.values())}


def quiet_steps(warmup_steps: int, total_steps: int) -> int:
  """How long a run is given before its figures count as signs.

  At the start a network without normalisation sends all images nearly one
  way, and running statistics are not those of any batch yet: nothing has
  collapsed. The learning rate has to have been at work: the warm-up, and a
  tenth of the run or 100 steps, whichever is less. The last step always
  counts.
  """
  return min(max(warmup_steps, min(total_steps // 10, 100)), total_steps - 1)


class Watch:
  """Follows a run's figures, and has words where a sign comes or goes."""

  def __init__(
      self, config: ml_collections.ConfigDict, quiet_steps: int,
      num_devices: int = 1):
    """Nothing is said up to `quiet_steps`, see there."""
    self._causes = causes_or_where_to_look(config, num_devices)
    self._quiet_steps = quiet_steps
    self._seen = set()

  def look(self, step: int, metrics: Mapping[str, float]) -> Iterator[str]:
    """Yields a line for each new sign; with the first, what causes it.

    And one for a figure that has recovered: to twice its threshold, so that
    one that hovers does not fill the terminal.
    """
    if step <= self._quiet_steps:
      return
    signs = find_signs(metrics)
    for name, sign in signs.items():
      if name not in self._seen:
        yield f'WARNING: step {step}: {sign}'
    if signs and not self._seen:
      for cause in self._causes:
        yield f'WARNING: {cause}'
    self._seen |= signs.keys()
    for name in sorted(self._seen & metrics.keys()):
      if metrics[name] > 2 * THRESHOLDS[name]:
        yield f'step {step}: {name} has recovered, to {metrics[name]:.3g}'
        self._seen.remove(name)


def verdict(
    metrics: Mapping[str, float], config: ml_collections.ConfigDict,
    num_devices: int = 1,
) -> str:
  """One line for the end of a run: whether it collapsed, and why."""
  judged = judge(metrics)
  signs = '; '.join(judged.get('signs', ()))
  if signs:
    what = 'collapsed' if judged['collapsed'] else (
        'few directions, and no collapse to a point')
    causes = ' '.join(causes_or_where_to_look(config, num_devices))
    return f'{what}: {signs}. {causes}'
  figures = [
      f'{name} {metrics[name]:.3g}' for name in THRESHOLDS if name in metrics]
  return f'no sign of collapse: {", ".join(figures) or "nothing measured"}'


def causes_or_where_to_look(
    config: ml_collections.ConfigDict, num_devices: int = 1) -> list[str]:
  """What to say of a run that collapsed: sentences, at least one."""
  causes = likely_causes(config, num_devices)
  weak = _small_batch_statistics(config, num_devices)
  if causes != weak:
    return causes
  known = (
      'This alone rarely does it' if weak else
      'None of the settings known to cause it is in this config')
  return [*weak, (
      f'{known}: look at the learning rate (train/update_norm against '
      'train/param_norm), at what normalises projections, and at '
      'augmentations that leave two views nothing in common, or everything '
      '(views.png).')]


# The least weight of negatives that is known to keep images apart (table 18).
_LEAST_BETA = 0.1


def likely_causes(
    config: ml_collections.ConfigDict, num_devices: int = 1) -> list[str]:
  """What in a configuration is known to collapse, with what is known of it.

  Numbers are top-1 on ImageNet from the paper's ablations (tables 5, 15 and
  21; appendix F), where the baseline has 72.5. A target that never moves
  (tau 1) cannot collapse and is no cause.

  Args:
    config: of the run.
    num_devices: that shared a batch, over all processes.

  Returns:
    One or two sentences for each; none for a sound configuration.
  """
  causes = []
  if config.beta < _LEAST_BETA:  # negatives guard against all of these
    causes += _causes_in_target(config) + _causes_in_norms(config)
  if config.optimizer == 'lars' and not config.exclude_bias_and_norm:
    causes.append(
        'config.exclude_bias_and_norm=False: LARS scales the steps of biases '
        'and normalisation parameters by their norm, so those that start at '
        'zero hardly move. Set it to True.')
  causes += _rate_of_another_optimizer(config)
  if config.optimizer == 'lars' and not config.weight_decay:
    causes.append(
        'config.weight_decay=0 is unstable with LARS in the paper: try 1e-6.')
  return causes + _small_batch_statistics(config, num_devices)


def _small_batch_statistics(
    config: ml_collections.ConfigDict, num_devices: int) -> list[str]:
  """Table 16 has 59.7 with 64 images: less is a risk, if not a cause."""
  norms = config_rules.norms_in_use(config)
  images = config.batch_size // config.accumulation_steps
  what = 'Batch statistics come from'
  if 'batch_local' in norms:
    images //= num_devices
    what = 'batch_local: each device\'s statistics come from'
  if images >= 64 or not norms & {'batch', 'batch_local'}:
    return []
  return [
      f'{what} {images} images: raise config.batch_size or lower '
      'config.accumulation_steps.']


def _causes_in_target(config: ml_collections.ConfigDict) -> list[str]:
  """What nothing but the predictor and a slow target guards against."""
  causes = []
  is_ema = config.target == 'ema'
  never_moves = is_ema and config.base_tau == 1
  if not config.predictor.depth and not never_moves:
    causes.append(
        'config.predictor.depth=0: without a predictor and without '
        'negatives the loss has a trivial minimum (0.2 % in the paper). Set '
        'it to 2.')
  if config.target == 'online':
    causes.append(
        'config.target=online: gradient flows into the target, so both '
        'sides may shrink to a constant (0.3 % in the paper). Set it to ema.')
  if (config.predictor.depth and not never_moves
      and not config.predictor_learning_rate_multiplier):
    causes.append(
        'config.predictor_learning_rate_multiplier=0: the predictor never '
        'learns to predict (0.01 % in the paper, with tau 0). Set it to 1.')
  # A fast predictor takes the slow target's place (table 21: 62.8 at x2).
  is_fast = config.predictor_learning_rate_multiplier >= 2
  if not is_fast and (
      config.target == 'stop_gradient' or is_ema and config.base_tau < 0.9):
    setting = (
        f'config.base_tau={config.base_tau:g}' if is_ema
        else 'config.target=stop_gradient')
    causes.append(
        f'{setting}: the target follows the online network too fast (0.3 % in '
        'the paper where it copies it). Set config.target=ema and '
        'config.base_tau between 0.99 and 0.999, or raise '
        'config.predictor_learning_rate_multiplier to 10.')
  return causes


def _causes_in_norms(config: ml_collections.ConfigDict) -> list[str]:
  """Projections that start out nearly one way, and no norm to part them."""
  if config.encoder not in config_rules.ENCODERS:
    return []  # a user's own may have any
  norms = {config.encoder_norm}
  if config.projector.depth > 1:  # its last layer has none
    norms |= {config.projector_norm}
  if norms == {'none'}:
    return [
        'config.encoder_norm and config.projector_norm=none: the default '
        'initialisation sends all images nearly one way, and nothing undoes '
        'it (0.1 % in the second paper, as others report it). Set them to '
        'affine_init, group_ws or batch.']
  if norms <= {'none', 'layer', 'instance'}:
    return [
        f'config.encoder_norm={config.encoder_norm} and config.projector_norm='
        f'{config.projector_norm}: neither takes off what all images have in '
        'common, which at first is nearly everything (layer everywhere '
        'collapses in docs/ablations.md). Set one of them to affine_init or '
        'batch.']
  return []


# Peak rates within which an optimizer is known to train, with room to spare.
# AdamW moves every weight by about the rate in each step: at 0.01 a kernel
# whose weights are of size 0.02 is another one after two. SGD with momentum
# trains these networks between 0.03 and 0.5.
_MAX_RATES = {'adamw': 0.01, 'sgd': 1.0}
_USUAL_RATES = {'adamw': 0.0005, 'sgd': 0.05}
# LARS moves a kernel by this share of its own norm, the rate times the trust
# coefficient: .5 % at best in table 15, and at 1.6 % still 69.4.
_MAX_LARS_SHARE = 0.05
# Before scaling with the batch. Table 15 has 34.8 here: hardly learned.
_MIN_LARS_BASE_RATE = 0.01


def _rate_of_another_optimizer(
    config: ml_collections.ConfigDict) -> list[str]:
  """A learning rate whose magnitude is another optimizer's."""
  base = config.base_learning_rate
  peak = base * config.batch_size / 256
  if config.optimizer != 'lars':
    if peak <= _MAX_RATES[config.optimizer]:
      return []
    return [
        f'config.base_learning_rate={base:g} makes a peak of {peak:.3g}, of '
        f'LARS\'s scale, and the optimizer is {config.optimizer}: try '
        f'{_USUAL_RATES[config.optimizer]:g}.']
  share = peak * config.trust_coefficient
  if share > _MAX_LARS_SHARE:
    return [
        f'config.base_learning_rate={base:g} lets LARS move a kernel by '
        f'{100 * share:.2g} % of its norm in a step: try 0.2 to 0.4, with '
        'which the paper has 0.3 to 0.5 %.']
  if base < _MIN_LARS_BASE_RATE and not config.clip_trust_ratio:
    return [
        f'config.base_learning_rate={base:g} is of AdamW\'s scale, and the '
        'optimizer is lars: hardly anything is learned (34.8 % at 0.01 in '
        'the paper). Try 0.2.']
  return []

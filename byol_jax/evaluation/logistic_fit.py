"""L2-regularised logistic regression on features, at one strength, by L-BFGS.

What is minimised over a kernel W and an unpenalised bias is

    sum of the examples' losses + l2 / 2 * |W|^2

where a loss is the cross-entropy of the softmax or, for several labels an
example, the sum over classes of that of the sigmoid (one against the rest).
The half makes l2 scikit-learn's 1 / C.

Two things make it fast, and neither changes the problem:

  * Centred features only shift the unpenalised bias, and rotated to their
    principal axes they leave |W| as it is. There the Hessian is nearly
    diagonal, an axis's sum of squares times the mean of p (1 - p). L-BFGS
    works on weights times the root of that, taken where it starts, and has
    some tens of iterations to do where classes overlap.
  * Logits are linear in the weights, so that a line search costs no products
    with the features: an iteration takes two, whatever is searched.

A fit has converged when the gradient, with each principal axis divided by the
root of its curvature at uniform predictions, is at most `tolerance` times the
residuals (probability minus target): with little penalty that is the cosine
between what the classifier gets wrong and what the features could mend. It
does not depend on where a fit started, nor on the features' scale, and means
the same where classes separate and the loss goes to zero. The objective is
then above its minimum by about tolerance^2, relatively; by more where classes
nearly separate and the loss is flat.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Literal

from absl import logging
from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from byol_jax import config as config_lib

Loss = Literal['softmax', 'sigmoid']
Params = dict[str, np.ndarray]

# Examples whose logits are computed at once.
_BLOCK = 8192
_MEMORY = 10  # pairs of steps and gradients' differences that L-BFGS keeps
# Iterations, after which p (1 - p) is taken anew: a cold fit of classes that
# separate ends far from where its first one holds.
_RESTART = 100
_SEARCH_STEPS = 20
_SEARCH_SLOPE = 0.1  # a search ends at this share of the first slope

_matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Fit:
  """One minimum, and how near.

  Attributes:
    params: `kernel` f32[D, C] and `bias` f32[C], for features as they are.
    l2: the strength.
    iterations: of L-BFGS.
    converged: whether `gradient` came below the tolerance.
    gradient: relative to the residuals, see above.
    objective: the sum that is minimised.
  """

  params: Params
  l2: float
  iterations: int
  converged: bool
  gradient: float
  objective: float


@struct.dataclass
class Problem:
  """Examples as the solver sees them, on the device.

  Attributes:
    design: f32[N, D + 1], features along their principal axes, and a 1.
    sign: f32[N, C], 1 or -1, a class that is or is not there; 0 is ignored.
    curvature: f32[D + 1], the Hessian's diagonal at uniform predictions.
    mean: f32[D], of the features.
    axes: f32[D, D], orthogonal, an axis a column.
    loss: of an example.
  """

  design: jax.Array
  sign: jax.Array
  curvature: jax.Array
  mean: jax.Array
  axes: jax.Array
  loss: Loss = struct.field(pytree_node=False)


def create_problem(
    features: np.ndarray, target: np.ndarray, *, num_classes: int,
    loss: Loss = 'softmax',
) -> Problem:
  """Brings examples into the coordinates of the solver.

  Args:
    features: f32[N, D].
    target: int[N] in [0, num_classes) for 'softmax'; for 'sigmoid'
      int[N, num_classes] of 1, 0, and -1 where an example is to be ignored.
    num_classes: C.
    loss: 'softmax' or 'sigmoid'.

  Raises:
    ConfigError: features or targets that cannot be learnt from.
  """
  _check(features, target, num_classes, loss)
  if loss == 'softmax':
    sign = 2.0 * np.eye(num_classes, dtype=np.float32)[target] - 1.0
  else:
    sign = np.choose(target + 1, np.float32([0, -1, 1]))
  mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
  centred = jax.device_put(features - mean)
  # In float64 on the host: axes must be orthogonal beyond float32's doubt.
  _, axes = np.linalg.eigh(np.asarray(
      _matmul(centred.T, centred), np.float64))
  axes = jnp.asarray(axes, jnp.float32)
  design = jnp.pad(
      _matmul(centred, axes), [(0, 0), (0, 1)], constant_values=1.0)
  known = np.maximum(np.sum(sign != 0, axis=0), 1)
  share = np.sum(sign > 0, axis=0) / known
  spread = max(float(np.mean(share * (1 - share))), 1e-3)
  return Problem(
      design=design, sign=jax.device_put(sign), axes=axes,
      curvature=spread * jnp.sum(jnp.square(design), axis=0),
      mean=jnp.asarray(mean), loss=loss)


def _check(
    features: np.ndarray, target: np.ndarray, num_classes: int, loss: Loss
) -> None:
  count = len(features)
  shape = (count,) if loss == 'softmax' else (count, num_classes)
  if target.shape != shape:
    raise config_lib.ConfigError(
        f'targets have the shape {target.shape}, expected {shape} for '
        f'{count} examples of {num_classes} classes and loss {loss!r}')
  if not np.isfinite(features).all():
    raise config_lib.ConfigError(
        'features are not finite (NaN or infinite), expected numbers: look '
        'whether the encoder diverged')
  low, high = (0, num_classes - 1) if loss == 'softmax' else (-1, 1)
  if count and not low <= target.min() <= target.max() <= high:
    raise config_lib.ConfigError(
        f'targets reach from {target.min()} to {target.max()}, expected '
        f'{low} to {high}')
  if not count or len(np.unique(target)) < 2:
    raise config_lib.ConfigError(
        f'all {count} examples to learn from have the same target, expected '
        'at least two classes')


def _loss(problem: Problem, logits: jax.Array) -> jax.Array:
  """The sum of the examples' losses."""
  sign = problem.sign
  if problem.loss == 'sigmoid':
    return jnp.sum(jnp.abs(sign) * jax.nn.softplus(-sign * logits))
  # How far the right class is behind all others together; its softplus does
  # not cancel where the right class is nearly sure.
  others = jax.nn.logsumexp(jnp.where(sign > 0, -jnp.inf, logits), axis=1)
  right = jnp.sum(jnp.where(sign > 0, logits, 0.0), axis=1)
  return jnp.sum(jax.nn.softplus(others - right))


def _residual(problem: Problem, logits: jax.Array) -> jax.Array:
  """The loss's gradient by the logits: probability minus target, f32[N, C]."""
  sign = problem.sign
  if problem.loss == 'sigmoid':
    return -sign * jax.nn.sigmoid(-sign * logits)
  wrong = jnp.where(sign > 0, 0.0, jax.nn.softmax(logits))
  # Summed, where 1 - p would cancel.
  return jnp.where(sign > 0, -jnp.sum(wrong, axis=1, keepdims=True), wrong)


def _bend(
    problem: Problem, residual: jax.Array, step: jax.Array) -> jax.Array:
  """The loss's second derivative along a step of the logits."""
  if problem.loss == 'sigmoid':
    return jnp.sum(_spread(residual) * jnp.square(step))
  p = jnp.where(problem.sign > 0, 1 + residual, residual)
  mean = jnp.sum(p * step, axis=1, keepdims=True)
  return jnp.sum(p * jnp.square(step - mean))


def _spread(residual: jax.Array) -> jax.Array:
  """p (1 - p), which is the same of p, of 1 - p and of their negatives."""
  p = jnp.abs(residual)
  return p * (1 - p)


def _search(
    slope_and_bend: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    first_slope: jax.Array,
) -> jax.Array:
  """The length of a step: Newton's method between bounds, in one dimension.

  The objective is convex, so its slope alone says on which side of the
  minimum a length is; values, which float32 cannot tell apart near the
  minimum, are not compared.

  Args:
    slope_and_bend: first and second derivative at a length.
    first_slope: at length 0, below 0.

  Returns:
    A length whose slope is at most a tenth of the first.
  """
  def look(carry):
    length, low, high, _, count = carry
    slope, bend = slope_and_bend(length)
    low = jnp.where(slope < 0, length, low)
    high = jnp.where(slope < 0, high, length)
    newton = length - slope / bend
    inside = (newton > low) & (newton < high)
    fallback = jnp.where(jnp.isinf(high), 2 * length, (low + high) / 2)
    done = jnp.abs(slope) <= _SEARCH_SLOPE * jnp.abs(first_slope)
    following = jnp.where(inside, newton, fallback)
    return jnp.where(done, length, following), low, high, done, count + 1

  return lax.while_loop(
      lambda carry: ~carry[3] & (carry[4] < _SEARCH_STEPS), look,
      (jnp.float32(1), jnp.float32(0), jnp.float32(jnp.inf), False, 0))[0]


@jax.jit
def _minimize(
    problem: Problem, init: Params, l2: jax.Array, tolerance: jax.Array,
    max_iterations: jax.Array,
) -> tuple[Params, dict[str, jax.Array]]:
  """L-BFGS from `init`; compiles once for all strengths of a path."""
  penalty = l2 * jnp.ones_like(problem.curvature).at[-1].set(0.0)[:, None]
  typical = problem.curvature[:, None]
  # The last column is all ones: what the axes' curvatures have in common.
  common = typical[-1:] / len(problem.design)
  metric = jnp.sqrt(common / (typical + penalty))
  start = _to_axes(problem, init)
  logits = _matmul(problem.design, start)
  spread = jnp.mean(_spread(_residual(problem, logits)))
  diagonal = spread / common * typical + penalty
  # A bias that nobody doubts has neither curvature nor penalty.
  scale = jnp.sqrt(diagonal + 1e-12 * typical)
  penalty = penalty / jnp.square(scale)
  tx = optax.scale_by_lbfgs(memory_size=_MEMORY)

  def evaluate(weights, logits):
    residual = _residual(problem, logits)
    gradient = _matmul(problem.design.T, residual) / scale + penalty * weights
    size = jnp.linalg.norm(gradient * scale * metric)
    return gradient, size / jnp.linalg.norm(residual)

  def iterate(carry):
    weights, logits, gradient, _, opt_state, count, _ = carry
    step, opt_state = tx.update(gradient, opt_state, weights)
    step = -step
    logits_step = _matmul(problem.design, step / scale)

    def slope_and_bend(length):
      residual = _residual(problem, logits + length * logits_step)
      pull = penalty * (weights + length * step)
      return (
          jnp.sum(residual * logits_step) + jnp.sum(pull * step),
          _bend(problem, residual, logits_step)
          + jnp.sum(penalty * jnp.square(step)))

    slope = jnp.sum(gradient * step)
    # Where float32 sees no way down any more, stay.
    length = jnp.where(slope < 0, _search(slope_and_bend, slope), 0.0)
    weights = weights + length * step
    logits = logits + length * logits_step
    return (weights, logits, *evaluate(weights, logits), opt_state, count + 1,
            slope >= 0)

  weights = start * scale
  weights, logits, _, size, _, count, _ = lax.while_loop(
      lambda carry: (
          (carry[3] > tolerance) & (carry[5] < max_iterations) & ~carry[6]),
      iterate,
      (weights, logits, *evaluate(weights, logits), tx.init(weights), 0, False))
  return _from_axes(problem, weights / scale), {
      'iterations': count, 'gradient': size,
      'objective': _loss(problem, logits)
                   + jnp.sum(penalty * jnp.square(weights)) / 2}


def _to_axes(problem: Problem, params: Params) -> jax.Array:
  kernel = _matmul(problem.axes.T, params['kernel'])
  bias = params['bias'] + _matmul(problem.mean, params['kernel'])
  return jnp.concatenate([kernel, bias[None]])


def _from_axes(problem: Problem, weights: jax.Array) -> Params:
  kernel = _matmul(problem.axes, weights[:-1])
  return {
      'kernel': kernel, 'bias': weights[-1] - _matmul(problem.mean, kernel)}


def zeros(problem: Problem) -> Params:
  """Where a cold fit starts."""
  shape = problem.mean.shape[0], problem.sign.shape[1]
  return {
      'kernel': np.zeros(shape, np.float32),
      'bias': np.zeros(shape[1:], np.float32)}


def fit(
    problem: Problem, l2: float, init: Params | None = None, *,
    max_iterations: int, tolerance: float,
) -> Fit:
  """Minimises at one strength.

  Args:
    problem: see `create_problem`.
    l2: above 0.
    init: where to start; zero by default.
    max_iterations: of L-BFGS.
    tolerance: of the relative gradient; below 1e-5 float32 may not get.

  Returns:
    The last iterate; a warning is logged if it has not converged.
  """
  if l2 <= 0:
    raise config_lib.ConfigError(f'l2 is {l2}, expected above 0')
  params, iterations = init or zeros(problem), 0
  while True:
    params, figures = jax.device_get(_minimize(
        problem, params, jnp.float32(l2), jnp.float32(tolerance),
        jnp.int32(min(_RESTART, max_iterations - iterations))))
    iterations += int(figures['iterations'])
    converged = bool(figures['gradient'] <= tolerance)
    stuck = not figures['iterations']
    if converged or stuck or iterations >= max_iterations:
      break
  result = Fit(
      params, float(l2), iterations, converged,
      float(figures['gradient']), float(figures['objective']))
  if not result.converged:
    logging.warning(
        'logistic: not converged at l2 %.3g: the relative gradient is %.2g '
        'after %d iterations, expected %.2g', l2, result.gradient,
        result.iterations, tolerance)
  return result


def compute_logits(params: Params, features: np.ndarray) -> np.ndarray:
  """Maps features f32[N, D] to logits f32[N, C], block by block."""
  params = jax.device_put(params)
  return np.concatenate([
      _matmul(features[n:n + _BLOCK], params['kernel']) + params['bias'][None]
      for n in range(0, len(features), _BLOCK)])

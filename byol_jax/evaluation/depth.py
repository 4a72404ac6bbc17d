"""Depth: the reverse Huber loss and the five metrics of appendix D.6.

Depths are in metres; 0 marks a pixel that was not measured, which counts
nowhere.
"""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byol_jax import config as config_lib
from byol_jax.training import agreement

# Of the largest error, where the loss turns from linear to quadratic.
_THRESHOLD_SHARE = 0.2
_RATIO = 1.25
# A prediction below is measured as this: ratios ask for positive depths.
_LEAST_DEPTH = 1e-3


def reverse_huber(
    prediction: jax.Array, depth: jax.Array, *, axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Absolute error up to c, (error^2 + c^2) / 2c above (Laina et al., Eq. 1).

  c is a fifth of the largest error of the batch, a constant to the gradient.

  Args:
    prediction: f32[B, H, W].
    depth: f32[B, H, W], 0 where not measured.
    axis_name: mapped axis over which the batch is spread, or None.

  Returns:
    The sum over this device's measured pixels, and their number, f32[].
  """
  measured = depth > 0
  error = jnp.where(measured, jnp.abs(prediction - depth), 0.0)
  largest = jnp.max(lax.stop_gradient(error))
  if axis_name is not None:
    largest = lax.pmax(largest, axis_name)
  c = jnp.maximum(_THRESHOLD_SHARE * largest, 1e-6)
  loss = jnp.where(error <= c, error, (error**2 + c**2) / (2 * c))
  return jnp.sum(loss), jnp.sum(measured.astype(error.dtype))


@dataclasses.dataclass
class DepthMetrics:
  """Sums over the measured pixels of all images added.

  Attributes:
    count: of pixels.
    hits: i64[3], those within a factor of 1.25, 1.25^2, 1.25^3.
    squared: sum of squared errors.
    relative: sum of errors as shares of the true depth.
  """

  count: int = 0
  hits: np.ndarray = dataclasses.field(
      default_factory=lambda: np.zeros(3, np.int64))
  squared: float = 0.0
  relative: float = 0.0

  def add(self, prediction: np.ndarray, depth: np.ndarray) -> None:
    """Counts the pixels of f32[...] and f32[...] of equal shape."""
    measured = depth > 0
    depth = depth[measured].astype(np.float64)
    prediction = np.maximum(
        prediction[measured].astype(np.float64), _LEAST_DEPTH)
    ratio = np.maximum(prediction / depth, depth / prediction)
    error = np.abs(prediction - depth)
    self.count += depth.size
    self.hits = self.hits + [
        np.count_nonzero(ratio < _RATIO**power) for power in (1, 2, 3)]
    self.squared += float(np.sum(error**2))
    self.relative += float(np.sum(error / depth))

  def total(self) -> 'DepthMetrics':
    """Of what all processes have added; all must ask."""
    counts = agreement.total(np.array([self.count, *self.hits], np.int64))
    squared, relative = agreement.total(
        np.array([self.squared, self.relative], np.float64))
    return DepthMetrics(
        int(counts[0]), counts[1:], float(squared), float(relative))

  def compute(self) -> dict[str, float]:
    """`delta1`, `delta2`, `delta3` (shares), `rms` (metres), `rel` (a share).

    Raises:
      ConfigError: if no pixel was measured.
    """
    if not self.count:
      raise config_lib.ConfigError(
          'no pixel of the depth maps to measure on has a depth above 0; '
          'choose another config.test_split')
    shares = {
        f'delta{power}': float(self.hits[power - 1] / self.count)
        for power in (1, 2, 3)}
    return shares | {
        'rms': float(np.sqrt(self.squared / self.count)),
        'rel': self.relative / self.count}

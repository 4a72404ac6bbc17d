"""The MLP heads: projector, predictor, and the linear online probe."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from byol_jax.networks import initializers
from byol_jax.networks import normalization as normalization_lib


def probe(num_classes: int) -> nn.Dense:
  """The linear classifier that watches the embedding during pretraining."""
  return nn.Dense(num_classes, kernel_init=initializers.truncated_fan_in)


class MLP(nn.Module):
  """`depth - 1` times Dense(with bias), norm, ReLU; then Dense(no bias).

  The paper's projector and predictor have depth 2. Depth 1 is a linear map,
  depth 0 the identity. The output is not normalised.

  Attributes:
    depth: number of dense layers.
    hidden_size: width of every layer but the last.
    output_size: width of the last; None is that of the input.
    normalization: of every layer but the last.
  """

  depth: int
  hidden_size: int
  output_size: int | None
  normalization: normalization_lib.Normalization

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps f32[B, C] to f32[B, output_size]."""
    kernel_init = initializers.truncated_fan_in
    output_size = self.output_size or x.shape[-1]
    for layer in range(1, self.depth):
      x = self.normalization.dense(
          self.hidden_size, kernel_init=kernel_init, name=f'dense{layer}')(x)
      x = self.normalization.norm(name=f'norm{layer}')(x, train=train)
      x = nn.relu(x)
    if self.depth:
      x = nn.Dense(
          output_size, use_bias=False, kernel_init=kernel_init,
          name=f'dense{self.depth}')(x)
    return jnp.asarray(x)

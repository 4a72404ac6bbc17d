"""How a convolution is computed; what is computed is always the same."""

from jax import lax

conv_general_dilated = lax.conv_general_dilated

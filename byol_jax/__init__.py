"""BYOL in JAX: pretrain an encoder without labels, and use it.

    from byol_jax import load_encoder
    encode = load_encoder('/path/of/a/workdir')
    embeddings = encode(images)  # f32[B, H, W, 3] in [0, 1] -> f32[B, D]
"""

from typing import Any

__all__ = ('load_encoder', '__version__')
__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
  """Imports on first use, so that a job's --help answers at once."""
  if name == 'load_encoder':
    from byol_jax.interchange.encoder import load_encoder
    return load_encoder
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

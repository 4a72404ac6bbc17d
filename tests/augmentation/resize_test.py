"""Which pixels a resized one is made of; `render_test` has their values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.augmentation import resize


@pytest.mark.parametrize('size', [16, 31, 224])
def test_places_are_exact(size):
  """In float32 a pixel's own centre may be rounded to before it."""
  lengths = np.arange(1, 700, dtype=np.int32)
  taps = jax.jit(jax.vmap(lambda x: resize._taps(jnp.int32(5), x, size)))
  found, weights = map(np.asarray, taps(lengths))
  centres = (2 * np.arange(size) + 1) * np.int64(lengths)[:, None] - size
  places = (centres // (2 * size))[..., None] + np.arange(-1, 3)
  last = lengths[:, None, None] - 1
  np.testing.assert_array_equal(found, 5 + np.clip(places, 0, last))
  # And the weights are of those: they lie about the exact centre.
  inside = np.all((places >= 0) & (places <= last), axis=-1)
  np.testing.assert_allclose(
      np.sum(weights * places, -1)[inside], (centres / (2 * size))[inside],
      rtol=0, atol=0.6 / 1024)

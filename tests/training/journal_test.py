"""What a run shows when its first step is done."""

import jax
import numpy as np
import pytest

from byol_jax.data import preview_grid
from byol_jax.data import program_cache
from byol_jax.training import journal as journal_lib
from byol_jax.training import setup as setup_lib

import tensorflow as tf  # isort: skip


@pytest.mark.parametrize('on_device', [False, True])
def test_the_views_shown_are_those_of_the_first_batch(
    on_device, tiny_config, tiny_encoder, tmp_path):
  tiny_config.augment.device = on_device
  setup = setup_lib.set_up(tiny_config, tiny_encoder)
  journal = journal_lib.Journal(setup, str(tmp_path), 0, 0.0)
  batches = setup.create_batches(0)
  with jax.transfer_guard('disallow'):  # as in the loop
    for step in (1, 2):
      journal.take(batches)
      journal.advance(step)
  journal.close()
  shown = tf.io.decode_png((tmp_path / 'views.png').read_bytes(), 3).numpy()
  expected = preview_grid.create_preview(
      setup.sources.train, tiny_config, num_images=8)
  # Devices are given bytes.
  np.testing.assert_allclose(
      shown.astype(int), expected.astype(int), atol=8 if on_device else 0)


def test_a_run_that_goes_on_shows_none(
    tiny_config, tiny_encoder, tmp_path, monkeypatch):
  """Its pipeline's programs are kept once, before anything can stop it."""
  saves = []
  monkeypatch.setattr(program_cache, 'save', lambda: saves.append(True))
  setup = setup_lib.set_up(tiny_config, tiny_encoder)
  journal = journal_lib.Journal(setup, str(tmp_path), 4, 0.0)
  journal.take(iter([{}]))
  assert not saves
  for step in (5, 6):
    journal.advance(step)
    assert len(saves) == 1
  journal.close()
  assert not (tmp_path / 'views.png').exists()

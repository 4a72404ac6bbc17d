"""A run that collapses says so and why; a healthy one raises no alarm."""

import json

import pytest

from byol_jax import config as config_lib
from byol_jax.training import loop


def _pretrain(config, workdir, encoder, **fields):
  """Sixty steps, of which the first thirty warm up."""
  fields = {
      'optimizer': 'sgd', 'total_steps': 60, 'warmup_steps': 30,
      'projector.output_size': 16, 'log_every_steps': 10,
      'evaluate_every_steps': 30, 'checkpoint_every_steps': 60} | fields
  for name, value in fields.items():
    config_lib.set_field(config, name, value)
  loop.pretrain(config, str(workdir), encoder)
  return json.loads((workdir / 'result.json').read_text())


def _rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_collapsed_run_says_so(tiny_config, tiny_encoder, tmp_path, capsys):
  result = _pretrain(tiny_config, tmp_path, tiny_encoder, **{
      'target': 'stop_gradient', 'predictor.depth': 0,
      'base_learning_rate': 20.0})
  output = capsys.readouterr().out
  assert result['collapsed'] is True
  assert result['projection_rank'] < 3
  assert any('diagnostics/projection_std' in s for s in result['signs'])
  warnings = [
      line for line in output.splitlines() if line.startswith('WARNING')]
  # The warm-up is given time, although it was enough.
  (warmed_up,) = [
      row for row in _rows(tmp_path / 'metrics.jsonl')
      if row['step'] == 30 and 'train/projection_std' in row]
  assert warmed_up['train/projection_std'] < 0.1
  assert warnings[0].startswith('WARNING: step 40: projections are')
  for words in (
      'train/projection_std is below', 'diagnostics/projection_rank is below',
      'config.predictor.depth=0', 'config.target=stop_gradient'):
    assert sum(words in line for line in warnings) == 1
  (verdict,) = [
      line for line in output.splitlines() if line.startswith('collapsed: ')]
  for words in (*result['signs'], 'config.predictor.depth=0',
                'config.target=stop_gradient'):
    assert words in verdict
  report = (tmp_path / 'report.html').read_text()
  assert 'Something looks wrong' in report
  assert 'projections are collapsing to a point' in report
  assert 'without a predictor' in report


def test_a_healthy_run_raises_no_alarm(
    tiny_config, tiny_encoder, tmp_path, capsys):
  result = _pretrain(
      tiny_config, tmp_path, tiny_encoder, base_learning_rate=2.0)
  output = capsys.readouterr().out
  assert result['collapsed'] is False and result['signs'] == []
  assert 'WARNING' not in output
  (verdict,) = [line for line in output.splitlines() if 'collapse' in line]
  assert verdict.startswith('no sign of collapse: train/embedding_std 0.')
  rows = _rows(tmp_path / 'distributions.jsonl')
  assert [row['step'] for row in rows] == [30, 60]
  heights = rows[-1]['pairs/projection_different_cosines']
  assert len(heights) == 50
  assert sum(heights) == pytest.approx(1, abs=1e-2)

"""Evaluation of frozen encoders; each protocol yields (name, value)."""

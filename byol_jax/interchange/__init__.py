"""Encoders for others: as a Python function, and in other formats."""

from byol_jax import quiet_tensorflow  # noqa: F401

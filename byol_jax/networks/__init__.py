"""The networks: encoder, projector, predictor and the online probe."""

from byol_jax import quiet_tensorflow  # noqa: F401

"""Training: schedules, optimizers, the state, the step and the loop."""

from byol_jax import quiet_tensorflow  # noqa: F401

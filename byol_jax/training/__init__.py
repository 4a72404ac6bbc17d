"""Training: schedules, optimizers, the state, the step and the loop."""

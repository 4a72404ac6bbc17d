"""The networks: encoder, projector, predictor and the online probe."""

"""Training: batches, objectives, the optimizer, the loop."""

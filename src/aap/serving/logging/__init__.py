"""What is recorded of predictions: the prediction log, and sampled feature vectors."""

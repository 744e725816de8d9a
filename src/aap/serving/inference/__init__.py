"""From a request to a prediction: consent, features, models, batching, worker pools."""

"""AAP: a consent-aware feature store and model-serving platform for customer events."""

"""A typed client of the prediction service; it needs httpx and msgspec alone."""

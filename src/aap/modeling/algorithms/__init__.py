"""Algorithms behind the models, each reproducible to the byte and stored without pickle."""

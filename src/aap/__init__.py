"""AAP: a consent-aware feature store and model-serving platform for customer events."""

__all__ = ["__version__"]

__version__ = "0.1.0"

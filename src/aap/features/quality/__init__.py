"""Checks of feature values: engine parity, online-offline skew, profiles, and recomputation."""

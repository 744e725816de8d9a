"""Keeps it fresh: imports, feature publishing, drift, the weekly retrain, the demo."""

"""The shop's prediction service and its endpoints."""

"""Churn: how likely a customer is to stop buying, and why."""

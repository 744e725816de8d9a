"""Rollout of new models: canaries, shadow traffic, targeting by segment."""

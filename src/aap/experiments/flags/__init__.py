"""Flags: their definition, evaluation by OpenFeature, rollout, and kill switches."""

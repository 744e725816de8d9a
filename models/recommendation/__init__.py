"""Recommendation: candidates, a ranker learned from past cuts, and lists."""

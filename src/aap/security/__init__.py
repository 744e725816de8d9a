"""Pseudonyms, the id map, API keys, rate limits and the audit log."""

"""Shared by every door: pseudonyms, the encrypted id map, API keys."""

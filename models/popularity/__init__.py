"""Popularity: what users who decline are recommended."""

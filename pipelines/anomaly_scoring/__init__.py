"""Scoring of transactions as they happen, in a process of its own."""

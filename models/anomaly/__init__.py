"""Anomalies: isolation forests over customers and over transactions."""

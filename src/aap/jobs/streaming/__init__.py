"""Processes that follow the event log: workers, their supervisor, alerts, experiment monitor."""

"""Predictions over HTTP: the application, its context, and the server."""

"""Answers: the HTTP door, the predictor behind it, and the models it has in use."""

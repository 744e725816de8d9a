"""What was served, looked at afterwards: replay, and evaluation of predictions."""

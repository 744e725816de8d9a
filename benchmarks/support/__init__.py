"""What benchmarks share: the keys of their reports, and how processor time is counted and compared."""

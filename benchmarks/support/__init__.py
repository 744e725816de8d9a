"""What benchmarks share: synthetic data, load, child processes, peers."""

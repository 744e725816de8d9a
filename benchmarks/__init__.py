"""One file a benchmark, with its peers in the same run."""

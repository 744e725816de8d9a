"""Reports that jobs write: drift, skew, summaries, trends, aggregates."""

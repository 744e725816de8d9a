"""What everything else stands on: files, locks, processes, Redis, DuckDB, encryption at rest, time stamps."""

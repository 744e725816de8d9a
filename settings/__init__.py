"""What a person may change without touching code: environment variables, YAML and JSON files."""

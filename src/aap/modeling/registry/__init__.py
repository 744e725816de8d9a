"""Model versions in MLflow: runs, artifacts, lineage, provenance."""

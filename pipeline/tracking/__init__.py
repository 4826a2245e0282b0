"""MLflow: runs, provenance, the registry of models."""

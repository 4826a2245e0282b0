"""MLflow: runs, provenance, and the model registry."""

"""A search in MLflow: runs, data sets, metrics, registered models."""

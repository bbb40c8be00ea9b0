"""What a search leaves in MLflow: runs, data sets, metrics, registered models."""

"""Data sets: from a user's files to Parquet, and from Parquet to uint8 pixels and texts."""

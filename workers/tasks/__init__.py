"""What is measured: retrieval, classification and matching, their metrics and losses."""

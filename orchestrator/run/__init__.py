"""A search from its start to its last file."""

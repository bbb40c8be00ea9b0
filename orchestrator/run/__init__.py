"""Running a search, from its start to its last file."""

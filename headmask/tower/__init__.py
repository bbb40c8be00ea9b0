"""A tower in pieces: views of its blocks, what is read from the last one, and what its heads contribute."""

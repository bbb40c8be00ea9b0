"""Models: loaded by name or file, with their weights, preprocessing and origin."""

"""What replaces a head, and stock models with edited weights that prove it."""

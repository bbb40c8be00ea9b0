"""Which mask is chosen, and what can be claimed of it."""

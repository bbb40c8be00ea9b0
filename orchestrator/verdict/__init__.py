"""The choice of the mask, and what can be claimed about it."""

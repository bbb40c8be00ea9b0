"""Refinement: a factor per head instead of a mask, trained on search, chosen on confirm, reported on test once."""

"""Putting a mask into a model: live, folded into its weights, pruned, exported and described in a card."""

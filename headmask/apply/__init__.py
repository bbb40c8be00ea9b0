"""A mask on a model: live, folded into its weights, pruned out of them, exported and described."""

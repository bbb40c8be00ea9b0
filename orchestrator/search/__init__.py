"""The search loop and its inputs: the session, the surrogate, gradients and shards."""

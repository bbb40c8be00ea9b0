"""The loop, and what it is given: the session, the surrogate, gradients and shards."""

"""The scoring engine: masks in, scores out. Knows nothing of Ray, other than what a replica is sent."""

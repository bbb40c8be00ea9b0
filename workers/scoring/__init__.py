"""The scoring engine: masks in, scores out. It knows nothing of Ray except what a replica is sent."""

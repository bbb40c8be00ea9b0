"""Who scores, and where: batches, replicas, what happens when they die, and groups that share images."""

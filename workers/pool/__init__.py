"""Who scores, and where: batches, replicas, their replacement when they die, and groups that share images."""

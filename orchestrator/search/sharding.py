"""How many replicas share the images: a prediction of whether splitting images or masks costs less."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from headmask.mask import HeadMask
from orchestrator.search.session import Session
from workers.pool.queue import MAX_SHARED
from workers.tasks.base import block_of, part_of

# Q queries, S shards

TYPICAL_HEADS = 6
"""Heads of a mask after the scan, for predicting the cost of a search."""
FLOPS = {"cpu": 5e10, "cuda": 2e14}
"""Rough floating-point operations per second of one replica; the relative cost of exchanges depends on little else."""
BYTES_PER_S, CALL_S = 1e9, 0.005
"""Rough cost of an exchange: by the object store of one node, and the minimum for each of its two rounds."""
WORTH = 0.2
"""Minimum predicted gain for splitting images: shards wait for each other, and for lost work."""
EMBEDDINGS_GIB = 8.0
"""Maximum memory that the embeddings of a batch may take on one device."""


def best_shards(session: Session, num_replicas: int, device: str = "cpu") -> int:
    """Return how many of the replicas should share the images; 1 means no sharing.

    It is as many as the embeddings of a batch need, and more if that reduces the predicted time of a typical block:
    with many replicas, a block has too few masks for all of them, and each part computes shared prefixes again.
    """
    if session.config.search.tower == "text":
        return 1
    candidates = [count for count in range(1, num_replicas + 1) if num_replicas % count == 0]
    fitting = [count for count in candidates if embeddings_gib(session, count) <= EMBEDDINGS_GIB] or candidates[-1:]
    seconds = {count: _seconds(session, num_replicas // count, count, device) for count in fitting}
    best = min(seconds, key=lambda count: seconds[count])
    return best if seconds[best] < (1 - WORTH) * seconds[fitting[0]] else fitting[0]


def embeddings_gib(session: Session, shards: int) -> float:
    """Return the memory that the embeddings of the largest batch worth sharing take on each shard's device."""
    shapes = [split.embedding_shape for split in session.payload.splits["search"].values()]
    return sum(4 * MAX_SHARED * _most_of(session, rows, shards) * width for rows, width in shapes) / 2**30


def exchanged_bytes(session: Session, shards: int) -> int:
    """Return the bytes that shards exchange for one mask on the search split.

    Every query's own score, float32, comes once and goes to every shard; its competitors come from every shard, a byte
    for their number and a float64 for their odds. Data about one shard's images alone is not counted.
    """
    numbers = sum(
        split.targets.num_compared(split.embedding_shape[1]) for split in session.payload.splits["search"].values()
    )
    return 0 if shards == 1 else numbers * (4 + (4 + 1 + 8) * shards)


def _seconds(session: Session, num_groups: int, shards: int, device: str) -> float:
    """Return the predicted seconds for the scan and for as many masks in typical blocks."""
    scan, block = scan_of(session), typical_block(session)
    blocks = max(1, len(scan) // len(block))
    forwards = _slowest(session, scan, num_groups) + blocks * _slowest(session, block, num_groups)
    rows = sum(_most_of(session, len(split.inputs), shards) for split in session.payload.splits["search"].values())
    seconds = forwards * rows * 2 * session.cost.plain_macs / FLOPS[device]
    num_masks = (len(scan) + blocks * len(block)) / num_groups
    if shards == 1:
        return seconds
    return seconds + num_masks * (exchanged_bytes(session, shards) / BYTES_PER_S + 2 * CALL_S / MAX_SHARED)


def _slowest(session: Session, masks: Sequence[HeadMask], num_groups: int) -> float:
    """Return the cost of the costliest part of masks divided among groups, in plain forward passes of every image."""
    ordered = sorted(masks)
    ends = [place * len(ordered) // num_groups for place in range(num_groups + 1)]
    return max(session.cost(ordered[start:stop]) for start, stop in pairwise(ends) if stop > start)


def _most_of(session: Session, num_images: int, shards: int) -> int:
    """Return the number of images of the largest shard."""
    block = block_of(num_images, session.chunk)
    parts = [part_of(num_images, block, index, shards) for index in range(shards)]
    return max(len(range(num_images)[part]) for part in parts)


def scan_of(session: Session) -> list[HeadMask]:
    """Return the masks of the scan."""
    return HeadMask.singles(session.grid, session.limits.free_heads(session.grid))


def typical_block(session: Session) -> list[HeadMask]:
    """Return a block of random masks of a few heads, which share little: blocks of a search share more."""
    rng, heads = np.random.default_rng(0), session.limits.free_heads(session.grid)
    size = min(TYPICAL_HEADS, session.limits.largest_size(session.grid))
    drawn = [rng.choice(len(heads), size, replace=False) for _ in range(session.config.search.block_size)]
    return [HeadMask.from_heads(session.grid, [heads[index] for index in chosen]) for chosen in drawn]

"""`--plan`: what a search would do and cost, printed before anything starts."""

from __future__ import annotations

import time
from functools import cache
from itertools import count, takewhile
from typing import Any

import torch

from headmask.mask import HeadMask
from orchestrator.search.gradients import ScaleGradients
from orchestrator.search.pace import pace_of
from orchestrator.search.preparing import prepare
from orchestrator.search.session import Session
from orchestrator.search.sharding import best_shards, embeddings_gib, exchanged_bytes, scan_of, typical_block
from orchestrator.settings.config import SearchConfig
from orchestrator.settings.location import redacted
from orchestrator.settings.trackinguri import tracked_at
from strategies import MaskSampler, make_sampler
from workers.data.pixels import Pixels
from workers.scoring.devices import chosen_device
from workers.scoring.replica import Payload, Replica
from workers.scoring.scorer import DTYPES

PROCESS_GIB = 0.5
"""Memory of a replica itself in GiB: Python, torch, the pieces of a layer."""
_GIB = 2**30


def make_plan(config: SearchConfig, speed: float | None = None) -> dict[str, Any]:
    """Return what a search would do: masks, forward passes, hours, memory, bytes to the object store, places.

    Model and data are loaded and checked; no replica is started and nothing is written.

    Args:
        config: configuration of the search.
        speed: plain forward passes per second of one replica; measured here by default.

    Raises:
        HeadmaskError: whatever would stop the search.
    """
    session, search = prepare(config), config.search
    num_replicas = known_replicas(config)
    replica = Replica(session.payload, chosen_device(session.config.pool.device))
    session = session.settled(replica.measure(session.wanted))
    shards = _shards(session, replica, num_replicas or 1)
    session = session.widened((num_replicas or 1) // shards)
    gradients = ScaleGradients(session)
    sampler = make_sampler(
        search.strategy,
        session.grid,
        limits=session.limits,
        block_size=search.block_size,
        width=session.width,
        gradients=gradients,
    )
    forwards_per_step = gradients.forwards_per_step if sampler.scales else 0.0
    inputs_per_s = speed or measured_speed(session, replica)
    work = _work(session, sampler, forwards_per_step, inputs_per_s)
    # Only the cluster knows how many replicas fit on it.
    unknown = {"replicas": "auto", "width": config.search.width, "replicas_busy": None, "hours": None}
    return {
        **_subject(session),
        **work,
        "speed": "given" if speed else "measured here",
        **(_time(session, sampler, work, forwards_per_step, num_replicas, shards) if num_replicas else unknown),
        **_needs(session, replica, shards),
        "run_folder": str(config.folder),
        "study": f"{config.study_name} in {redacted(config.storage)}",
        "tracking": tracked_at(config.folder, config.output.tracking_uri, config.storage)[1],
        "fingerprint": session.digest,
    }


def _subject(session: Session) -> dict[str, Any]:
    """Return what is searched, and by what."""
    search = session.config.search
    return {
        "model": str(session.model),
        "grid": f"{session.grid.layers} layers x {session.grid.heads} heads of the {search.tower} tower",
        "inputs": ", ".join(f"{session.num_inputs(name)} {name}" for name in session.splits),
        "objective": str(session.objective),
        "guide": str(session.guide),
        "precision": search.precision,
        "image_chunk": search.image_chunk,
    }


def known_replicas(config: SearchConfig) -> int | None:
    """Return how many replicas a search will have; None for as many as fit on a cluster, which only that knows."""
    pool = config.pool
    if pool.kind == "inline":
        return 1
    if pool.replicas != "auto" or pool.address is not None:
        return None if pool.replicas == "auto" else pool.replicas
    from workers.pool.cluster import local_nodes, need_of, room_for

    nodes = local_nodes()
    return max(1, room_for(nodes, need_of(nodes, config.search.threads, pool.gpus_per_replica)))


def _shards(session: Session, replica: Replica, num_replicas: int) -> int:
    """Return how many replicas share the images."""
    pool = session.config.pool
    device = "cpu" if pool.gpus_per_replica == 0 or replica.device == "cpu" else "cuda"
    return best_shards(session, num_replicas, device) if pool.shards == "auto" else pool.shards


def _time(
    session: Session,
    sampler: MaskSampler,
    work: dict[str, Any],
    forwards_per_step: float,
    num_replicas: int,
    shards: int,
) -> dict[str, Any]:
    """Return how many masks are in flight, how busy replicas are during the search, and how long all of it takes."""
    groups, inputs_per_s = max(1, num_replicas // shards), work["forwards_per_second_of_one_replica"]
    num_steps = sampler.num_steps_at(sampler.blocks.of(work["masks"] - 1))
    training_s = num_steps * forwards_per_step / inputs_per_s
    mask_s = (work["image_forwards"] / inputs_per_s - training_s) / work["masks"] / shards
    pace = pace_of(sampler.blocks, work["masks"], groups, mask_s, training_s=training_s)
    after_s = (work["forwards"] - work["image_forwards"]) / inputs_per_s / num_replicas
    return {
        "replicas": session.config.pool.replicas,
        "width": session.width,
        "replicas_busy": round(pace.busy, 3),
        "hours": round((pace.seconds + after_s) / 3600, 3),
    }


def _work(session: Session, sampler: MaskSampler, forwards_per_step: float, inputs_per_s: float) -> dict[str, Any]:
    """Return how many masks are scored, with how many forward passes, in how many hours of one replica."""
    search = session.config.search
    num_masks = num_masks_of(session, sampler, forwards_per_step)
    num_forwards = search_cost(session, sampler, num_masks, forwards_per_step)
    num_searched = num_forwards * session.num_inputs("search")
    num_inputs = round(
        num_searched
        + (min(search.finalists, num_masks) + search.random_masks) * session.num_inputs("confirm")
        + 2 * session.num_inputs("test")
    )
    hours = num_inputs / inputs_per_s / 3600
    return {
        "masks": num_masks,
        "stops_at": str(session.config.budget.budget()),
        "image_forwards": round(num_searched),
        "search_in_plain_forward_passes": round(num_forwards, 1),
        "forwards": num_inputs,
        "forwards_per_second_of_one_replica": round(inputs_per_s, 1),
        "replica_hours": round(hours, 3),
    }


def _needs(session: Session, replica: Replica, shards: int) -> dict[str, Any]:
    """Return what replicas, hosts and the object store must hold, in how many shards."""
    pool, precision = session.config.pool, session.config.search.precision
    payload_gib, pixels_gib = (size / _GIB for size in payload_bytes(session.payload))
    node_bytes = session.cost.numbers_per_node * session.chunk * DTYPES[precision].itemsize
    nodes_gib = session.grid.layers * node_bytes / _GIB
    surrogate_gib = session.surrogate_bytes / _GIB if session.uses_surrogate else 0.0
    # Replicas on CPUs read one copy of their host.
    own_gib = surrogate_gib if replica.device != "cpu" else 0.0
    memory_gib = payload_gib + nodes_gib + embeddings_gib(session, shards) + own_gib + PROCESS_GIB
    return {
        "surrogate": session.uses_surrogate,
        "surrogate_per_host_gib": round(surrogate_gib, 3),
        # By how many replicas there is room for, which only a cluster knows; the rest is said for one.
        "shards": "auto" if pool.shards == pool.replicas == "auto" and pool.address is not None else shards,
        "exchanged_per_mask_mib": round(exchanged_bytes(session, shards) / 2**20, 3),
        "memory_per_replica_gib": round(memory_gib, 2),
        "pixels_per_host_gib": round(pixels_gib, 3),
        "object_store_gib": round(payload_gib + surrogate_gib + (pixels_gib if pool.address else 0.0), 3),
    }


def search_cost(session: Session, sampler: MaskSampler, num_masks: int, forwards_per_step: float) -> float:
    """Return the predicted cost of a search's masks and of training, in plain forward passes over the search split.

    Block 0 is counted mask by mask; what comes after it is taken for blocks of random masks of a few heads.
    """
    first, typical = scan_of(session)[: sampler.blocks.num_first], typical_block(session)
    cost = cache(lambda size: session.cost(typical[:size]))
    after = takewhile(lambda block: block.start < num_masks, map(sampler.blocks.numbers, count(1)))
    training = sampler.num_steps_at(sampler.blocks.of(num_masks - 1)) * forwards_per_step / session.num_inputs("search")
    blocks = sum(cost(min(block.stop, num_masks) - block.start) for block in after)
    return session.cost(first[:num_masks]) + blocks + training


def num_masks_of(session: Session, sampler: MaskSampler, forwards_per_step: float) -> int:
    """Return the maximum number of masks that a search scores: its budget, but no more than exist."""
    config, typical = session.config, typical_block(session)
    most = min(config.budget.masks, sampler.num_masks)
    if config.budget.image_forwards is None:
        return most
    forwards = cache(lambda size: session.forwards(typical[:size]))
    left = config.budget.image_forwards - session.forwards(scan_of(session)[: sampler.blocks.num_first])
    left -= sampler.num_steps_at(0) * forwards_per_step
    block = 1
    # A block is begun as long as something is left.
    while left > 0 and sampler.blocks.numbers(block).start < most:
        training = sampler.num_steps_for(block) * forwards_per_step
        left -= forwards(len(sampler.blocks.numbers(block))) + training
        block += 1
    return min(most, sampler.blocks.numbers(block).start)


@torch.inference_mode()
def measured_speed(session: Session, replica: Replica) -> float:
    """Return plain forward passes per second of one replica here, by predicted cost, with the study's constants."""
    constants = session.constants
    if constants is None:
        raise RuntimeError("speed is measured with the constants of the study")
    engine = replica.engine("search", constants.precision, constants.chunk)
    engine.inputs = engine.inputs.first(constants.chunk)
    baseline = [HeadMask.empty(session.grid)]
    engine.embed(baseline)
    started = time.perf_counter()
    engine.embed(baseline)
    return len(engine.inputs) * session.cost(baseline) / (time.perf_counter() - started)


def payload_bytes(payload: Payload) -> tuple[int, int]:
    """Return the bytes that every replica needs, and those of the pixels that the replicas of a host share."""
    arrays = [split for parts in payload.splits.values() for split in parts.values()]
    tower = sum(array.nbytes for array in payload.tower.arrays.values())
    own = sum(
        split.other_E.nbytes + (0 if isinstance(split.inputs, Pixels) else split.inputs.nbytes) for split in arrays
    )
    return tower + own, sum(split.inputs.nbytes for split in arrays if isinstance(split.inputs, Pixels))

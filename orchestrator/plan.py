"""`--plan`: what a search would do and cost, said before anything starts."""

from __future__ import annotations

import time
from typing import Any

import torch

from headmask.mask import HeadMask
from orchestrator.config import SearchConfig
from orchestrator.location import redacted
from orchestrator.session import Session, prepare
from strategies import make_sampler
from workers.engine import Engine
from workers.replica import Payload
from workers.scorer import DTYPES

_GIB = 2**30


def make_plan(config: SearchConfig) -> dict[str, Any]:
    """Return what a search would do: masks, image-forwards, seconds at this machine's measured speed, memory, places.

    Model and data are loaded and checked; no replica is started and nothing is written.

    Raises:
        HeadmaskError: whatever would stop the search.
    """
    session = prepare(config)
    make_sampler(config.search.strategy, session.grid, limits=session.limits)
    sizes = {name: len(split.pixels) for name, split in session.splits.items()}
    num_masks = min(config.budget.masks, session.limits.num_masks(session.grid))
    forwards = (
        num_masks * sizes["search"]
        + (config.search.finalists + config.search.random_masks) * sizes["confirm"]
        + 2 * sizes["test"]
    )
    images_per_s = measured_speed(session)
    payload_gib = payload_bytes(session.payload) / _GIB
    return {
        "model": str(session.model),
        "grid": f"{session.grid.layers} layers x {session.grid.heads} heads",
        "images": ", ".join(f"{size} {name}" for name, size in sizes.items()),
        "masks": num_masks,
        "image_forwards_at_most": forwards,
        "images_per_second_of_one_replica_here": round(images_per_s, 1),
        "replica_hours_at_most": round(forwards / images_per_s / 3600, 3),
        "memory_per_replica_gib": round(payload_gib + 0.5, 2),
        "object_store_gib": round(payload_gib, 3),
        "run_folder": str(config.folder),
        "study": f"{config.study_name} in {redacted(config.storage)}",
        "tracking": config.output.tracking_uri or str(config.folder.resolve().parent / "mlflow.db"),
        "fingerprint": session.digest,
    }


@torch.inference_mode()
def measured_speed(session: Session) -> float:
    """Return images per second of one plain forward pass here, with the study's chunk, precision and threads."""
    search = session.config.search
    torch.set_num_threads(search.threads)
    from headmask.towers import VisionTowerView

    tower = session.payload.tower.unpack().to(DTYPES[search.precision])
    pixels = session.splits["search"].pixels
    engine = Engine(
        VisionTowerView(tower),
        type(pixels)(pixels.cache_NCYX, pixels.rows_N[: search.image_chunk]),
        session.payload.normalisation,
        ablation="zero",
        means_LHd=None,
        image_chunk=search.image_chunk,
    )
    baseline = [HeadMask.empty(session.grid)]
    engine.embed(baseline)
    started = time.perf_counter()
    engine.embed(baseline)
    return len(engine.pixels) / (time.perf_counter() - started)


def payload_bytes(payload: Payload) -> int:
    """Return the size of what goes to every node."""
    tower = sum(array.nbytes for array in payload.tower.arrays.values())
    splits = sum(
        len(split.pixels) * split.pixels[:1].nbytes + split.text_QE.nbytes + split.image_of_caption_Q.nbytes
        for split in payload.splits.values()
    )
    return tower + splits

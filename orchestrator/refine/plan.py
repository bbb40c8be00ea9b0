"""`headmask refine --plan`: what a refinement would do and cost at most, printed before anything starts."""

from __future__ import annotations

from typing import Any

from orchestrator.refine.choosing import SHARES
from orchestrator.refine.refining import Order
from orchestrator.refine.training import FOLDS, PULLS, checkpoints
from orchestrator.run.plan import measured_speed
from orchestrator.search.gradients import ScaleGradients
from orchestrator.search.preparing import prepare
from workers.scoring.devices import chosen_device
from workers.scoring.replica import Replica


def make_plan(order: Order, speed: float | None = None) -> dict[str, Any]:
    """Return what a refinement would do: steps, forward passes, hours, if every recipe is trained to its end.

    Model and data are loaded and checked; no replica is started and nothing is written.

    Args:
        order: what is to be refined.
        speed: plain forward passes per second of one replica; measured here by default.

    Raises:
        HeadmaskError: whatever would stop the refinement.
    """
    session = prepare(order.config)
    replica = Replica(session.payload, chosen_device(order.config.pool.device))
    session = session.settled(replica.measure(session.wanted))
    looks, num_starts = checkpoints(order.max_steps), len(order.starts)
    num_recipes = num_starts * len(PULLS)
    num_steps = (num_recipes * FOLDS + num_starts) * looks[-1]
    num_candidates = 1 + (order.mask is not None) + num_starts * (1 + len(order.starts) * len(SHARES))
    forwards = (
        num_steps * ScaleGradients(session).forwards_per_step
        + (num_recipes * FOLDS * len(looks) + 3) * session.num_inputs("search")
        + num_candidates * session.num_inputs("confirm")
        + (3 if order.mask is not None else 2) * session.num_inputs("test")
    )
    inputs_per_s = speed or measured_speed(session, replica)
    replicas, hours = order.config.pool.replicas, forwards / inputs_per_s / 3600
    return {
        "model": str(session.model),
        "grid": f"{session.grid.layers} layers x {session.grid.heads} heads of the {order.config.search.tower} tower",
        "inputs": ", ".join(f"{session.num_inputs(name)} {name}" for name in session.splits),
        "objective": str(session.objective),
        "begins_from": " and ".join(f"the {start}" for start in order.starts),
        "ways_of_training": num_recipes,
        "held_out_parts": FOLDS,
        "steps_at_most": num_steps,
        "candidates_on_confirm": num_candidates,
        "image_forwards_at_most": round(forwards),
        "forwards_per_second_of_one_replica": round(inputs_per_s, 1),
        "speed": "measured here" if speed is None else "given",
        "replica_hours_at_most": round(hours, 3),
        "replicas": replicas,
        "hours_at_most": None if replicas == "auto" else round(hours / replicas, 3),
        "results_in": str(order.config.folder),
    }

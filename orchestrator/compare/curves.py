"""How the best value so far grew in a search, on the same axes for all searches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headmask.border.foreign import reason_of
from headmask.border.shown import shown
from headmask.errors import DataError
from orchestrator.compare.content import CurvePoint
from orchestrator.compare.entrant import Entrant
from orchestrator.settings.objective import Objective
from orchestrator.study.runfolder import read_parquet

# T trials, in order of proposal


def best_so_far(entrant: Entrant) -> list[CurvePoint]:
    """Return the points at which the objective's best value on the search split grew, and the last point.

    Masks that failed, or that exceed a limit of loss, count as scored but are never the best.

    Raises:
        DataError: the run folder's `trials.parquet` is not valid.
    """
    if entrant.objective is None or not entrant.trials:
        return []
    objective = Objective.parse(entrant.objective)
    names = [goal.prefix + metric for goal in objective.goals for metric in goal.mix.metrics]
    trials = _read(entrant.trials, names)
    if not len(trials["value"]):
        return []
    values = [sum(w * trials[g.prefix + m] for m, w in g.mix.weights) for g in objective.goals]
    totals = [sum(weight for _, weight in goal.mix.weights) for goal in objective.goals]
    goals_TD = np.stack([value / total for value, total in zip(values, totals, strict=True)], axis=1)
    gain_T = objective.over_draws(goals_TD)
    # What is lost beyond limits makes a value negative; failures have none.
    gain_T[~(trials["value"] >= 0) | np.isnan(gain_T)] = -np.inf
    best_T, seconds_T = np.maximum.accumulate(gain_T), np.cumsum(np.nan_to_num(trials["seconds"]))
    grew_T = np.diff(best_T, prepend=-np.inf) > 0
    grew_T[-1] = True
    return [
        CurvePoint(masks=int(place) + 1, seconds=round(float(seconds_T[place]), 3), value=float(best_T[place]))
        for place in np.flatnonzero(grew_T)
        if np.isfinite(best_T[place])
    ]


def _read(trials: Path | Sequence[Any], metrics: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return values, seconds and metrics of all trials (T)."""
    if not isinstance(trials, Path):
        columns = {name: [getattr(each, name) for each in trials] for name in ("value", "seconds")}
        columns |= {name: [each.metrics.get(name) for each in trials] for name in metrics}
        return {name: np.array(column, dtype=np.float64) for name, column in columns.items()}
    wanted = ["value", "seconds", *dict.fromkeys(metrics)]
    table = read_parquet(trials, wanted)
    try:
        return {name: table[name].to_numpy().astype(np.float64) for name in wanted}
    except (TypeError, ValueError) as error:
        raise DataError(f"{shown(trials)} is not a trials.parquet of a search: {reason_of(error)}") from None

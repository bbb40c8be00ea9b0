"""The Python interface: `headmask.search`, `headmask.scan`, `headmask.resume` and `headmask.refine` forward here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

from headmask.border.home import give_home
from headmask.errors import ConfigError
from headmask.mask import HeadMask
from orchestrator.outcome.run import SearchRun
from orchestrator.refine.refining import order_of
from orchestrator.refine.refining import refine as run_refinement
from orchestrator.refine.run import RefineRun
from orchestrator.run import begin
from orchestrator.run.conclude import Outcome
from orchestrator.run.display import Display, Quiet, make_display
from orchestrator.run.pools import check_replicas, make_pool, ray_ahead
from orchestrator.run.precheck import check_baseline
from orchestrator.screen.terminal import Terminal
from orchestrator.screen.waiting import said_when_slow
from orchestrator.search.preparing import load, ready
from orchestrator.search.scoring import score_all
from orchestrator.search.session import Session
from orchestrator.settings.config import read_config
from orchestrator.settings.options import REFINE, RESUME, SCAN, SEARCH, flags_of
from orchestrator.settings.typed import RefineOptions, ResumeOptions, ScanOptions, SearchOptions
from orchestrator.study.reopening import stored_config
from workers.scoring.messages import MaskScore, Stage

if TYPE_CHECKING:
    import pandas as pd

R = TypeVar("R")


def search(config: Path | str | None = None, *, progress: bool = False, **options: Unpack[SearchOptions]) -> SearchRun:
    """Return the result of a search, as `headmask search` runs it.

        run = headmask.search(model="ViT-B-32", pretrained="openai", data="my.parquet", out="runs/first")
        print(run)
        model = headmask.load("ViT-B-32", run.mask)

    Args:
        config: TOML file; options override it.
        progress: show progress.
        options: settings by the names of the command line's flags, such as `masks=1000` or `max_heads=8`.

    Raises:
        HeadmaskError: bad input, or the study exists.
        Interrupted: stopped by a signal; `headmask.resume` continues.
    """
    settings = read_config(None if config is None else Path(config), flags_of(options, SEARCH))
    return _found(lambda display: begin.start(settings, display), progress)


def resume(
    study: Path | str, *, storage: str | None = None, progress: bool = False, **options: Unpack[ResumeOptions]
) -> SearchRun:
    """Return the result of a search that continued where it had stopped, or further with a larger budget.

        run = headmask.resume("runs/first", masks=2000)

    Args:
        study: a run folder; or the name of a study, with `storage`.
        storage: journal file or database URL that holds the study.
        progress: show progress.
        options: the budget, the pool, `out` and `tracking_uri`, by the names of the command line's flags.

    Raises:
        HeadmaskError: bad input, or there is no such study.
        Interrupted: stopped by a signal; resume again.
    """
    settings = stored_config(str(study), storage, flags_of(options, RESUME))
    return _found(lambda display: begin.resume(settings, display), progress)


def refine(
    run: Path | str | None = None,
    *,
    steps: int | None = None,
    prune: bool = False,
    progress: bool = False,
    **options: Unpack[RefineOptions],
) -> RefineRun:
    """Return the result of a refinement, as `headmask refine` runs it.

        refined = headmask.refine("runs/first")
        print(refined)
        model = headmask.load("ViT-B-32", refined.scales)

    Args:
        run: run folder of a finished search; without one, options say what is refined.
        steps: largest number of steps of training that may be chosen; 256 by default.
        prune: keep the mask's heads ablated, to be pruned, and scale only the others.
        progress: show progress.
        options: settings by the names of the command line's flags.

    Raises:
        HeadmaskError: bad input.
        Interrupted: stopped by a signal; the same call again goes on.
    """
    order = order_of(None if run is None else Path(run), flags_of(options, REFINE), steps, keeps_mask=prune)

    def refined(display: Display) -> RefineRun:
        return RefineRun.model_validate(run_refinement(order, display).model_dump())

    return _displayed(refined, progress)


def scan(
    config: Path | str | None = None,
    *,
    split: Literal["search", "confirm"] = "search",
    progress: bool = False,
    **options: Unpack[ScanOptions],
) -> pd.DataFrame:
    """Return the effect of ablating each head alone, one row per head.

        heads = headmask.scan(model="ViT-B-32", pretrained="openai", data="my.parquet", pool="inline")
        heads.sort_values("delta", ascending=False).head(10)
        heads.pivot(index="layer", columns="head", values="delta")

    The index is the head, such as `L3H7`. Columns are `layer`, `head`, `delta` (what changes in the objective against
    the baseline, in [-1, 1]), all metrics in [0, 1], the change of each as `delta_...`, and `failure`, why a head could
    not be scored. `attrs` holds the name of the `objective`, the metrics of the `baseline`, and the `split`.

    Scores equal those of a search. The test split is not looked at, and no files are left behind.

    Args:
        config: TOML file of a search; options override it.
        split: the split to score heads on; confirm in float32. Looking at confirm here amounts to choosing by it.
        progress: show progress.
        options: settings by the names of the command line's flags, such as `layers=[9, 10, 11]` or `ablation="mean"`.

    Raises:
        HeadmaskError: bad input.
    """
    flags = {**flags_of(options, SCAN), "output.folder": "scan"}  # Required of a search; nothing is written here.
    settings = read_config(None if config is None else Path(config), flags)
    if split not in ("search", "confirm"):
        raise ConfigError(f"split must be search or confirm; got {split!r}")
    say = Terminal().say if progress else lambda text: None
    check_replicas(settings)
    with contextlib.ExitStack() as stack:
        ahead = stack.enter_context(ray_ahead(settings))
        session = load(settings, say)
        pool = stack.enter_context(contextlib.closing(make_pool(session, Quiet(), ahead)))
        session = ready(session, pool, say)
        if settings.search.precheck:
            check_baseline(session, pool)
        session = session.embedded(pool, [split], say)
        session = session.settled(pool.settle(session.wanted))
        stage = session.search_stage if split == "search" else Stage("confirm", "float32")
        heads = session.limits.free_heads(session.grid)
        masks = HeadMask.singles(session.grid, heads)
        results = score_all(pool, stage, masks, on_progress=said_when_slow(say, "Scoring heads"))
    return _as_frame(session, {mask: result.score for mask, result in results.items()}, split)


def _as_frame(session: Session, scores: dict[HeadMask, MaskScore], split: str) -> pd.DataFrame:
    """Return a data frame with one row per head."""
    import pandas as pd

    objective = str(session.objective)
    baseline = session.objective.named(scores[HeadMask.empty(session.grid)].metrics)

    def rows() -> Iterator[dict[str, Any]]:
        for mask, score in sorted(scores.items()):
            for head in mask.heads:
                metrics = session.objective.named(score.metrics)
                changes = {name: metrics.get(name, float("nan")) - value for name, value in baseline.items()}
                yield {
                    "layer": head.layer,
                    "head": head.head,
                    "delta": changes[objective],
                    **{name: metrics.get(name, float("nan")) for name in baseline},
                    **{f"delta_{name}": change for name, change in changes.items()},
                    "failure": score.failure,
                }

    frame = pd.DataFrame(rows()).sort_values(["layer", "head"])
    frame.index = pd.Index([f"L{layer}H{head}" for layer, head in zip(frame["layer"], frame["head"], strict=True)])
    frame.attrs = {"objective": objective, "baseline": baseline, "split": split}
    return frame


def _found(run: Callable[[Display], Outcome], progress: bool) -> SearchRun:
    return _displayed(lambda display: SearchRun.model_validate(run(display).result.model_dump()), progress)


def _displayed(run: Callable[[Display], R], progress: bool) -> R:
    display: Display = Quiet()
    if progress:
        display = make_display(Terminal())
    # MLflow cannot be imported without one.
    give_home()
    try:
        return run(display)
    finally:
        display.stop()

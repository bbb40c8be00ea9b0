"""Running a refinement, from a finished search or from settings alone, to its files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headmask.border.kinds import PAGE, PICTURE, REFINEMENT, SCALES, SCALES_FILE, SPOOL
from headmask.border.shown import shown
from headmask.border.writing import check_outputs, check_run_folder, made_folder
from headmask.errors import ConfigError, StudyError
from headmask.maskfile import MaskFile
from headmask.scales import HeadScales
from orchestrator.outcome.schema import RELIABLE, SearchResult, read_result
from orchestrator.outcome.tables import CANDIDATE_SCALES
from orchestrator.refine import page, picture
from orchestrator.refine.choosing import Choice, candidates, choose
from orchestrator.refine.content import FILE, RefineResult, refine_result, scales_file, split_results
from orchestrator.refine.tracking import track_refinement
from orchestrator.refine.training import MASK, MAX_STEPS, MODEL, SEARCH, HeldOut, Start, Trained, Trainer
from orchestrator.run.display import Display
from orchestrator.run.outputs import inputs_of, is_run
from orchestrator.run.pools import check_replicas, make_pool, ray_ahead
from orchestrator.run.precheck import check_baseline
from orchestrator.run.signals import StopFlag, stop_signals
from orchestrator.search.gradients import ScaleGradients
from orchestrator.search.preparing import load, ready
from orchestrator.search.session import SPLITS, Session
from orchestrator.search.tasks import KeptTasks
from orchestrator.settings.config import SearchConfig, read_config
from orchestrator.settings.options import REFINE, REFINE_RUN
from orchestrator.study.looks import count_looks_without_study, keep_looks
from orchestrator.study.reopening import stored_config
from orchestrator.track.spool import NAME
from workers.pool.protocol import Pool

PICTURE_FILE, PAGE_FILE = "refined.png", "refine.html"
_FILES = {SCALES: SCALES_FILE, CANDIDATE_SCALES: SCALES_FILE, FILE: REFINEMENT, PICTURE_FILE: PICTURE, PAGE_FILE: PAGE}


@dataclass(frozen=True)
class Order:
    """What is to be refined, and how."""

    config: SearchConfig
    """Model, data and settings; its folder receives the results."""
    run: Path | None = None
    """The run folder of the search, if there is one."""
    searched: SearchResult | None = None
    """Its result."""
    mask: MaskFile | None = None
    """The mask that it selected, if that ablates heads."""
    storage: str | None = None
    """The storage of the search."""
    max_steps: int = MAX_STEPS
    keeps_mask: bool = False
    """Whether the mask's heads stay ablated, so that they can be pruned."""

    @property
    def mask_scales(self) -> HeadScales | None:
        """The mask as scales."""
        return None if self.mask is None else self.mask.head_scales

    @property
    def starts(self) -> tuple[Start, ...]:
        """Where training begins."""
        return (*(() if self.keeps_mask else (MODEL,)), *(() if self.mask is None else (MASK,)))


def order_of(
    run: Path | None, flags: Mapping[str, Any], max_steps: int | None = None, *, keeps_mask: bool = False
) -> Order:
    """Return the order to refine the mask that a search selected, or a model without a search before.

    Args:
        run: run folder of the search, if there is one.
        flags: settings by dotted keys; those that a search brings may not be among them.
        max_steps: the largest number of steps.
        keeps_mask: whether the mask's heads stay ablated.

    Raises:
        StudyError: the search has not ended, or its files are damaged.
        ConfigError: settings are missing, or do not go with a search; or the mask is to be kept, and there is none.
    """
    steps = max_steps or MAX_STEPS
    if run is None:
        if keeps_mask:
            raise ConfigError("--prune keeps the heads of a search's mask ablated; name the run folder of a search")
        if not flags:
            raise ConfigError(
                "name the run folder of a finished search, or what to refine with --model, --data and --out"
            )
        return Order(read_config(None, flags), max_steps=steps)
    own = {option.path for option in REFINE_RUN.values()}
    if others := [option.flag for option in REFINE.values() if option.path in flags.keys() - own]:
        raise ConfigError(
            f"a search brings its model, its data and its settings: leave out {', '.join(others)}, or leave out the "
            f"run folder {shown(run)} to refine without a search"
        )
    searched, config = read_result(run, SearchResult), stored_config(str(run), None, flags)
    name = "mask.json" if searched.verdict == RELIABLE or not searched.selected else "candidate.json"
    mask = MaskFile.read(run / name)
    if keeps_mask and not mask.heads:
        raise ConfigError(f"--prune keeps the heads of a mask ablated, and the search in {shown(run)} selected none")
    storage = stored_config(str(run), None).storage
    return Order(config, run, searched, mask if mask.heads else None, storage, steps, keeps_mask)


def refine(order: Order, display: Display) -> RefineResult:
    """Train scales, choose some on confirm, report them on test once, and write everything.

    Gradients and scores are kept in the cache as they arrive: the same order again goes on where it was stopped.

    Raises:
        HeadmaskError: bad input.
        Interrupted: stopped by a signal.
    """
    config, folder = order.config, order.config.folder
    check_run_folder(folder, lambda path: is_run(path) or REFINEMENT.made(path / FILE))
    files = _FILES if order.run is not None else {**_FILES, NAME: SPOOL}
    check_outputs({folder / name: kind for name, kind in files.items()}, inputs=inputs_of(config))
    check_replicas(config)
    display.say(f"Loading {config.model.name} and {', '.join(section.path for section in config.data)}")
    with contextlib.ExitStack() as stack:
        ahead = stack.enter_context(ray_ahead(config))
        session = load(config, display.say)
        _check_same(order, session)
        pool = stack.enter_context(contextlib.closing(make_pool(session, display, ahead)))
        stopping = stack.enter_context(stop_signals())
        started = time.monotonic()
        session = ready(session, pool, display.say)
        if order.searched is None and config.search.precheck:
            check_baseline(session, pool)
        session = session.settled(pool.settle(session.wanted))
        session = session.embedded(pool, SPLITS, display.say, stopping.check)
        return _Refinement(order, session, pool, display, stopping).run(started)


def _check_same(order: Order, session: Session) -> None:
    """Refuse to refine a mask on another model or other data than it was searched on."""
    if order.mask is not None:
        order.mask.check_model(session.model.reference)
    if order.searched is None or not order.searched.searched:
        return
    now, before = session.digests, order.searched.searched["data"]
    if changed := sorted(name for name in now if now[name] != before.get(name)):
        raise StudyError(
            f"the mask cannot be refined, because its data have changed since the search: {', '.join(changed)}. "
            "Restore them, or search again"
        )


class _Refinement:
    """One refinement, with its pool."""

    def __init__(self, order: Order, session: Session, pool: Pool, display: Display, stopping: StopFlag) -> None:
        self._order, self._session, self._pool, self._display = order, session, pool, display
        self._tasks = KeptTasks(session, pool, stopping.is_set)
        self._baseline = HeadScales.ones(session.grid)

    def run(self, started: float) -> RefineResult:
        """Return the result, with all files written."""
        order, session, say = self._order, self._session, self._display.say
        trainer = Trainer(
            session,
            self._tasks,
            self._starts(),
            fixed=order.mask.mask if order.mask is not None and order.keeps_mask else None,
            max_steps=order.max_steps,
            say=say,
        )
        held_out = trainer.held_out()
        trained = trainer.trained(held_out)
        mask = order.mask_scales
        listed = candidates(trained, self._baseline, mask, keeps_mask=order.keeps_mask)
        say(f"scoring {len(listed)} candidates on the confirm split")
        choice = choose(session, self._tasks, listed, mask, before_test=self._before_test)
        search = [self._baseline.to_array(), choice.selected.scales.to_array()]
        before, after = self._tasks.scores(SEARCH, search)
        known = {
            "splits": split_results(session, choice, (before, after)),
            "keeps_mask": order.keeps_mask,
            "image_forwards": round(self._forwards()),
            "seconds": round(time.monotonic() - started, 3),
            **self._place(),
        }
        return self._written(choice, held_out, trained, known)

    def _starts(self) -> dict[Start, HeadScales]:
        mask = self._order.mask_scales
        return {start: self._baseline if mask is None or start == MODEL else mask for start in self._order.starts}

    def _before_test(self, scales: Sequence[HeadScales]) -> None:
        self._display.say("checking that the decoded pixels are unchanged")
        self._session.check_pixels()
        self._pool.check_pixels()
        self._display.say(f"scoring {len(scales)} candidates on the test split")
        looks = [look for each in scales if each != self._baseline for look in self._session.looks(each)]
        keep_looks(looks, self._order.config.folder)

    def _forwards(self) -> float:
        """Return how many plain forward passes of one input all tasks take."""
        session, tasks = self._session, self._tasks
        scored = sum(count * session.num_inputs(split) for split, count in tasks.num_scored.items())
        return tasks.num_gradients * ScaleGradients(session).forwards_per_step + scored

    def _place(self) -> dict[str, Any]:
        """Return where the results are, and what they belong to."""
        config, searched = self._session.config, self._order.searched
        return {
            "test_looks": count_looks_without_study(self._order.storage, self._session.test_digests, config.folder),
            "study": None if searched is None else searched.study,
            "mlflow_run_id": None if searched is None else searched.mlflow_run_id,
            "scales_file": str(config.folder / SCALES),
            "settings": config.public(),
        }

    def _written(
        self, choice: Choice, held_out: list[HeldOut], trained: list[Trained], known: dict[str, Any]
    ) -> RefineResult:
        """Return the result after everything is written; the result last, as the sign that all is there."""
        session, folder, mask = self._session, self._order.config.folder, self._order.mask
        result = refine_result(session, choice, held_out, trained, **known)
        with made_folder(folder):
            pass
        scales_file(session, choice.recommended, result, mask).write(folder / SCALES)
        # Of an earlier refinement there.
        (folder / CANDIDATE_SCALES).unlink(missing_ok=True)
        if choice.selected.scales != choice.recommended:
            scales_file(session, choice.selected.scales, result, mask).write(folder / CANDIDATE_SCALES)
        picture.write_panels(picture.panels_of(result), folder / PICTURE_FILE)
        result.write(folder / FILE)
        page.write_page_of(result, folder / PAGE_FILE)
        track_refinement(session, result, self._order.run, self._display.say)
        return result

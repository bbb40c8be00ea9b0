"""Running a search from configuration to files, for `headmask search` and `headmask resume`."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from headmask.border.kinds import RUN_CONFIG
from headmask.border.libraries import joined, same_transform, versions
from headmask.border.passwords import redacted
from headmask.border.shown import counted
from headmask.border.writing import made_folder
from headmask.errors import HeadmaskError, PixelsChangedError, StudyError
from headmask.mask import HeadMask
from headmask.maskfile import write_json
from orchestrator.outcome.schema import RELIABLE, Prospects, SearchResult
from orchestrator.run.clock import Clock
from orchestrator.run.conclude import Outcome, conclude
from orchestrator.run.display import Display
from orchestrator.run.outputs import OLDER, set_aside_older
from orchestrator.run.pools import check_device, make_pool
from orchestrator.run.precheck import check_baseline
from orchestrator.run.signals import StopFlag, stop_signals
from orchestrator.search.gradients import ScaleGradients
from orchestrator.search.loop import Search
from orchestrator.search.preparing import load, ready
from orchestrator.search.progress import Listener, Progress
from orchestrator.search.scoring import Interrupted
from orchestrator.search.session import Session
from orchestrator.search.surrogate import Surrogate, make_surrogate
from orchestrator.settings.commandline import command_line
from orchestrator.settings.config import SearchConfig
from orchestrator.settings.modelname import ModelName
from orchestrator.settings.trackinguri import beside, tracked_at
from orchestrator.study.looks import look_at_test
from orchestrator.study.place import RunPlace, held
from orchestrator.study.runfolder import CONFIG
from orchestrator.study.store import StudyStore
from orchestrator.track.operations import Begin, Status
from orchestrator.track.registering import check_foldable, register
from orchestrator.track.searchrun import BestCurve, track_session
from orchestrator.track.tracker import Tracker
from orchestrator.verdict.decide import Verdict, decide
from orchestrator.verdict.prospects import look_ahead
from strategies import MIN_WIDTH, make_sampler
from workers.pool.ahead import Ahead
from workers.pool.protocol import Pool

EMBEDDED_ON = "embedded_on"
"""Study attribute: kind of device that embeds the side that no mask changes. Studies without it did so on the CPU."""
CPU = "cpu"
"""How kinds of CPUs begin."""
CHANGED = "pixels_changed"
"""Study attribute that says why its scores cannot be trusted."""


def start(config: SearchConfig, display: Display, ahead: Ahead | None) -> Outcome:
    """Create the study of a configuration and run it; `orchestrator.run.begin` has checked the configuration.

    Raises:
        HeadmaskError: bad input, or the study exists.
        Interrupted: stopped by a signal; the study can be resumed.
    """
    uri, tracked = tracked_at(config.folder, config.output.tracking_uri, config.storage)
    config = config.with_tracking(uri)
    display.say(_loading_sentence(config))
    session = load(config, display.say)
    if config.output.fold or config.output.register_as:
        check_foldable(session)
    with contextlib.closing(make_pool(session, display, ahead)) as pool:
        session = ready(session, pool, display.say)
        if config.search.precheck:
            check_baseline(session, pool)
        session = session.settled(pool.settle(session.wanted)).widened(pool.num_replicas)
        display.say(_settled_sentence(config, session))
        if session.width > MIN_WIDTH:
            display.say(f"Keeping {session.width} masks in flight, for {counted(pool.num_replicas, 'replica')}")
        attrs = {
            "config": session.config.public(),
            "fingerprint": session.fingerprint,
            "versions": versions(),
            EMBEDDED_ON: pool.device,
        }
        with StudyStore.create(config.storage, config.study_name, attrs) as store:
            return _run(session, store, pool, display, tracked)


def resume(config: SearchConfig, display: Display, ahead: Ahead | None) -> Outcome:
    """Continue a study exactly where it stopped, or further with a larger budget.

    Raises:
        StudyError: there is no such study, another driver runs it, or its fingerprint differs.
        Interrupted: stopped by a signal; the study can be resumed.
    """
    with StudyStore.open(config.storage, config.study_name) as store:
        if store.attr(CHANGED):
            raise StudyError(
                f"the scores of study {store.name!r} cannot be trusted ({store.attr(CHANGED)}): "
                "it cannot go on, start another one with --out"
            )
        display.say(_loading_sentence(config))
        known = store.attr("fingerprint") or {}
        session = load(_with_constants(config, known), display.say)
        session = replace(session, settled_surrogate=_settled_surrogate(session, known))
        session = _going_on(store, session)
        _keep_versions(store, display)
        if older := set_aside_older(config.folder):
            display.say(f"Files of an older version are in {config.folder / OLDER} now: {', '.join(older)}")
        store.set_attr("config", session.config.public())
        with contextlib.closing(make_pool(session, display, ahead)) as pool:
            session = _embedded_as_begun(session, store, pool, display)
            session = ready(session, pool, display.say)
            session = session.settled(pool.settle(session.wanted))
            if session.width < pool.num_replicas:
                display.say(
                    f"This study keeps {session.width} masks in flight, as it began: some of "
                    f"{counted(pool.num_replicas, 'replica')} find no work at times"
                )
            uri = config.output.tracking_uri
            return _run(session, store, pool, display, beside(config.folder) if uri is None else redacted(uri))


def _with_constants(config: SearchConfig, fingerprint: Mapping[str, Any]) -> SearchConfig:
    """Return a configuration in which open values are those that the study has settled."""
    known = {key: fingerprint[key] for key in ("precision", "image_chunk") if key in fingerprint}
    open_keys = {
        "precision": config.search.precision == "auto",
        "image_chunk": not isinstance(config.search.image_chunk, int),
    }
    update = {key: value for key, value in known.items() if open_keys[key]}
    if config.search.width == "auto":
        update["width"] = fingerprint.get("width", MIN_WIDTH)
    return config.model_copy(update={"search": config.search.model_copy(update=update)})


def _settled_surrogate(session: Session, fingerprint: Mapping[str, Any]) -> bool | None:
    """Return whether a study uses the surrogate: what memory there is now does not decide that again."""
    known = fingerprint.get("surrogate")
    return known if isinstance(known, bool) and session.config.search.surrogate else None


def _loading_sentence(config: SearchConfig) -> str:
    return f"Loading {config.model.name} and {', '.join(section.path for section in config.data)}"


def _settled_sentence(config: SearchConfig, session: Session) -> str:
    """Return in which precision a study is searched, and how many inputs are computed together."""
    search = session.config.search
    what = "images" if search.tower == "image" else "captions"
    is_chosen = config.search.precision == "auto" and search.precision != "float32"
    precision = f"{search.precision}, in which this hardware computes" if is_chosen else search.precision
    measured = " (measured)" if config.search.image_chunk == "measure" else ""
    exact = "" if search.precision == "float32" else "; finalists in float32"
    return f"Searching in {precision}, {search.image_chunk} {what} at a time{measured}{exact}"


def _going_on(store: StudyStore, session: Session) -> Session:
    """Return the session of a resumed study, which keeps the words that the study has for its preprocessing.

    Raises:
        StudyError: the fingerprint differs otherwise.
    """
    before = store.attr("fingerprint") or {}
    if same_transform(described := str(before.get("preprocess")), session.preprocessing):
        session = replace(session, preprocessing=described)
    now = session.fingerprint
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        lines = "\n".join(f"  {key}: {_short(before.get(key))} -> {_short(now.get(key))}" for key in changed)
        raise StudyError(
            f"study {store.name!r} cannot continue, because what it searches has changed:\n{lines}\n"
            "Restore what it was, or start another study with --out"
        )
    return session


def _embedded_as_begun(session: Session, store: StudyStore, pool: Pool, display: Display) -> Session:
    """Return the session of a resumed study, whose other side is embedded on a CPU where it began so."""
    began = store.attr(EMBEDDED_ON) or CPU
    if not began.startswith(CPU) or pool.device.startswith(CPU):
        return session
    display.say(f"This study began with {session.other.side}s embedded on a CPU, and goes on so")
    return replace(session, other=replace(session.other, on_cpu=True))


def _keep_versions(store: StudyStore, display: Display) -> None:
    """Add the versions that a study goes on with to those that it has been made with."""
    before: dict[str, str] = store.attr("versions") or {}
    made_with = joined(before, versions())
    if made_with != before:
        store.set_attr("versions", made_with)
    if changed := [f"{name} {known}" for name, known in made_with.items() if known != before.get(name, known)]:
        display.say(f"The study is made with more than one version of {'; '.join(changed)}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _run(session: Session, store: StudyStore, pool: Pool, display: Display, tracked: str) -> Outcome:
    config, clock = session.config, Clock(store)
    with made_folder(config.folder):
        pass
    write_json(config.folder / CONFIG, config.public(), RUN_CONFIG)
    begin = _tracking(config, store)
    display.say(f"Tracked in MLflow at {tracked}")
    with (
        Tracker(
            config.folder,
            begin,
            config.output.tracking_uri,
            on_run=lambda run_id: store.set_attr("mlflow_run_id", run_id),
            say=display.say,
        ) as tracker,
        stop_signals() as stopping,  # After Ray, which installs handlers of its own.
        held(config.folder) as place,
    ):
        track_session(tracker, session)
        curve = BestCurve(tracker)
        with _ending(store, tracker, clock):
            if not config.pool.mixed_devices:
                check_device(store, pool)
            surrogate = make_surrogate(session, pool, display.say, stopping.is_set)
            searched = _search(session, store, pool, surrogate, curve, display, stopping, clock, place)
            session = session.embedded(pool, ("confirm", "test"), display.say, stopping.check)
            verdict = _decide(session, store, pool, searched, display, stopping, place)
            prospects = _look_ahead(session, pool, searched, display, stopping)
        place.check()
        curve.finish(searched)
        outcome = conclude(session, store, tracker, searched, verdict, prospects, surrogate, display, clock.seconds)
    outcome = replace(outcome, is_tracked=not tracker.has_failed)
    if config.output.register_as is not None:
        registered = _registered(session, outcome.result, display, is_tracked=tracker.is_complete)
        outcome = replace(outcome, is_registered=registered)
    display.say(f"Results are in {config.folder}; report.html there shows them")
    return outcome


@contextlib.contextmanager
def _ending(store: StudyStore, tracker: Tracker, clock: Clock) -> Iterator[None]:
    """Note how a search ends that is stopped or fails, and how long it took however it ends."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        tracker.log(Status(status="KILLED"))
        raise Interrupted from None
    except PixelsChangedError as error:
        store.set_attr(CHANGED, str(error))
        tracker.log(Status(status="FAILED"))
        raise
    except BaseException:
        tracker.log(Status(status="FAILED"))
        raise
    finally:
        clock.keep()


def _decide(
    session: Session,
    store: StudyStore,
    pool: Pool,
    searched: Progress,
    display: Display,
    stopping: StopFlag,
    place: RunPlace,
) -> Verdict:
    """Return the verdict; before the test split is looked at, the pixels are checked and the look is recorded."""

    def before_test(mask: HeadMask) -> None:
        place.check()
        display.say("checking that the decoded pixels are unchanged")
        session.check_pixels()
        pool.check_pixels()
        look_at_test(store, session.looks(mask), session.config.folder)

    return decide(
        session,
        searched.records,
        pool,
        on_stage=display.say,
        is_stopping=stopping.is_set,
        before_test=before_test,
    )


def _look_ahead(
    session: Session, pool: Pool, searched: Progress, display: Display, stopping: StopFlag
) -> Prospects | None:
    display.say("scoring the best mask on the search split once more, for the noise there")
    return look_ahead(
        session,
        searched.records,
        pool,
        is_exhausted=searched.stopped_by == "exhausted",
        is_stopping=stopping.is_set,
    )


def _registered(session: Session, result: SearchResult, display: Display, *, is_tracked: bool) -> bool:
    """Register the model of a reliable mask, and return whether all that was requested is done."""
    folder, name = session.config.folder, ModelName.parse(session.config.output.register_as or "")
    command = command_line("headmask", "track", "register", folder, "--name", str(name))
    if result.verdict != RELIABLE:
        display.say(f"Without a reliable improvement nothing is registered; to do it anyway: {command} --candidate")
        return True
    if not is_tracked:
        # That has been waited for already.
        display.say(f"The model is not registered, because its run is not complete. Do it later with: {command}")
        return False
    uri = session.config.output.tracking_uri
    try:
        display.say(register(folder, name, uri=uri, model=session.model, say=display.say).sentence)
    except HeadmaskError as error:
        display.say(f"The model is not registered: {error}. Do it later with: {command}")
        return False
    return True


def _tracking(config: SearchConfig, store: StudyStore) -> Begin:
    """Return how a search is tracked: by a key in the study, so that its run is found from any machine."""
    if store.attr("tracking_key") is None:
        store.set_attr("tracking_key", uuid.uuid4().hex)
    uri = config.output.tracking_uri
    return Begin(
        key=store.attr("tracking_key"),
        experiment=config.output.experiment,
        run_name=store.name,
        uri=None if uri is None else redacted(uri),
    )


def _search(
    session: Session,
    store: StudyStore,
    pool: Pool,
    surrogate: Surrogate | None,
    curve: BestCurve,
    display: Display,
    stopping: StopFlag,
    clock: Clock,
    place: RunPlace,
) -> Progress:
    """Return the state of the search when its budget was spent."""
    config = session.config
    gradients = ScaleGradients(session, pool, is_stopping=stopping.is_set)
    sampler = make_sampler(
        config.search.strategy,
        session.grid,
        seed=config.search.seed,
        limits=session.limits,
        block_size=config.search.block_size,
        width=session.width,
        screen=surrogate.screen if surrogate else None,
        gradients=gradients,
        shortlist=config.search.shortlist,
    )

    search = Search(
        sampler,
        store,
        pool,
        stage=surrogate.stage if surrogate else lambda mask: session.search_stage,
        value=session.search_value,
        guide=str(session.guide),
        cost=session.forwards,
        forwards_per_step=gradients.forwards_per_step if sampler.scales else 0.0,
        listeners=[*([surrogate] if surrogate else []), curve, _Watch(display, pool, clock, place)],
        is_stopping=stopping.is_set,
    )
    try:
        search.run(config.budget.budget())
        return search.progress
    finally:
        display.stop()


class _Watch(Listener):
    """Shows how far a search is, keeps the time that its study takes, and ends it if its run folder is gone."""

    def __init__(self, display: Display, pool: Pool, clock: Clock, place: RunPlace) -> None:
        self._display, self._pool, self._clock, self._place = display, pool, clock, place

    def on_progress(self, progress: Progress) -> None:
        """Do all of it."""
        self._display.update(progress, self._pool.status)
        self._clock.keep_now_and_then()
        self._place.check()

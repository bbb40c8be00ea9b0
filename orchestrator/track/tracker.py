"""Tracking in the background: operations are kept in the run folder, and a thread sends them to MLflow.

A server that is away never stops a search. Unsent operations wait in `tracking.jsonl`, and `headmask track sync` sends
them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from headmask.border.passwords import HIDDEN, redacted
from headmask.border.reading import is_file
from headmask.errors import StudyError
from orchestrator.settings.commandline import command_line
from orchestrator.settings.location import scheme_of
from orchestrator.settings.trackinguri import check_tracking_uri, with_password
from orchestrator.track.mlflowrun import MlflowRun, Server, server_of
from orchestrator.track.operations import Begin, Metrics, Operation, Sent, Status
from orchestrator.track.refusal import NO_ANSWER, is_full, is_refused, reason_of, refusal_of
from orchestrator.track.spool import NAME, Spool

_log = logging.getLogger(__name__)

CLOSE_S = 60.0
"""Seconds that the end of a search waits for a server that is accepting what is left."""
SILENT_S = 10.0
"""Seconds that it waits for one that is not; a database file is never away, only slow."""
RUN_S = 4.0
"""Seconds that it waits for the id of the run, if the server has not given it before."""
FILE_S = 30.0
"""The same for a database file that is being made, which takes longer."""
CLOSING_DELAY_S = 1.0
"""Seconds between two attempts at the end."""
AT_ONCE = 100
"""Maximum number of operations sent together: with few points each, fewer than MLflow's 1,000 in a batch."""


class Sender:
    """Sends the operations of a spool to a run, in order, and records how far it got."""

    def __init__(self, spool: Spool, server: Server, begin: Begin) -> None:
        self.run = MlflowRun(server, begin, spool.folder)
        self._spool = spool
        self.refused: list[str] = []
        """What the server refused, and why."""

    @property
    def num_left(self) -> int:
        """How many operations the run does not have."""
        return len(self._spool.operations) - self._spool.sent(self.run.run_id)

    def send_next(self) -> list[Operation]:
        """Return the operations sent by this call: the next one, or consecutive metrics; refused ones are left out.

        Raises:
            Exception: whatever MLflow raises for a server that is away; nothing counts as sent then.
        """
        self._spool.commit()
        start = self._spool.sent(self.run.run_id)
        ahead = self._spool.operations[start : start + AT_ONCE]
        group: list[Operation] = list(takewhile(lambda each: isinstance(each, Metrics), ahead)) or list(ahead[:1])
        try:
            self._send(group)
        # MLflow, SQLAlchemy and requests each have their own exceptions for a store that is away.
        except Exception as error:
            # What a broken database does not take is kept: it will be taken when the database is repaired.
            if not is_refused(error):
                raise
            self.refused.append(f"{group[0].kind}: {reason_of(error)}")
        self._spool.append(Sent(run_id=self.run.run_id, count=start + len(group)))
        return group

    def _send(self, group: list[Operation]) -> None:
        metrics = [each for each in group if isinstance(each, Metrics)]
        if metrics:
            self.run.send_metrics(metrics)
        for operation in group[len(metrics) :]:
            self.run.send(operation)


class Tracker:
    """Tracks a search in the background. Use as a context manager: leaving it waits a little for what is left.

    Args:
        folder: of the run.
        begin: how the search is tracked.
        uri: of the server, with its password; None for the database beside the run folder.
        on_run: told the id of the run, once there is one.
        say: told when nothing can be sent for the first time, and that everything is sent again after that.
    """

    def __init__(
        self,
        folder: Path,
        begin: Begin,
        uri: str | None,
        on_run: Callable[[str], None],
        say: Callable[[str], None] = _log.warning,
    ) -> None:
        self._server = server_of(folder, uri)
        self._begin, self._on_run, self._say = begin, on_run, say
        self._spool = Spool(folder)
        self._spool.append(begin)
        self.run_id: str | None = None
        self.is_complete = False
        """Whether everything was sent; known once it is closed."""
        self.has_failed = False
        """Whether something was not sent for a reason other than a server that is away; known once it is closed."""
        self._opened, self._news, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._given_up, self._ended = threading.Event(), threading.Event()
        self._last_sent = time.monotonic()
        self._deadline = float("inf")
        """Time at which a server that is away is given up."""
        self._why = NO_ANSWER
        self._is_away = False
        self._is_full = False
        self._refusal: str | None = None
        """Why nothing will be accepted until something is repaired."""
        self._refused: list[str] = []
        self.log(Status(status="RUNNING"))
        self._thread = threading.Thread(target=self._work_and_close, name="headmask-tracking", daemon=True)
        self._thread.start()

    def log(self, operation: Operation) -> None:
        """Queue an operation; returns at once."""
        self._spool.append(operation)
        self._news.set()

    def wait_for_run(self, timeout_s: float | None = None) -> str | None:
        """Return the id of the run, waiting a while for the server; None if it stays away."""
        if timeout_s is None:
            timeout_s = FILE_S if self._is_file else RUN_S
        self._opened.wait(timeout_s)
        return self.run_id

    def close(self) -> bool:
        """Wait for what is left while it is being accepted, and return whether everything was sent."""
        started, silent_s = time.monotonic(), CLOSE_S if self._is_file else SILENT_S
        self._last_sent = max(self._last_sent, started)
        self._deadline = started + silent_s
        self._closing.set()
        self._news.set()
        while not self._ended.wait(0.05):
            self._deadline = self._last_sent + silent_s
            if time.monotonic() > min(self._deadline, started + CLOSE_S):
                self._deadline = 0.0
                self._given_up.set()
                break
        # It releases the file, except while it waits for an answer.
        self._thread.join(0.5)
        self.has_failed = bool(self._refusal or self._refused) or (self._is_full and not self.is_complete)
        return self.is_complete

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        where = redacted(self._server.uri)
        if not self.close():
            _log.warning(
                "tracking at %s is incomplete: %s. The rest waits in %s; send it with: %s%s",
                where,
                self._refusal or self._why,
                self._spool.path,
                command_line("headmask", "track", "sync", self._spool.folder),
                " --tracking-uri URL" if HIDDEN in where else "",
            )
        if self._refused:
            _log.warning("%s would not take %d entries; %s", where, len(self._refused), self._refused[0])

    @property
    def _is_file(self) -> bool:
        """Whether runs are kept in a local database file, which may still be in the making, and not on a server."""
        return scheme_of(self._server.uri) == "sqlite" and not self._is_away

    def _work_and_close(self) -> None:
        """Release the file in the end, possibly after the search, if an answer is still awaited."""
        with self._spool:
            try:
                self._work()
            finally:
                self._opened.set()
                self._ended.set()
                # A search goes on writing to the file when nothing more is sent.
                self._closing.wait()

    def _work(self) -> None:
        sender = self._retry(lambda: Sender(self._spool, self._server, self._begin))
        if sender is None:
            return
        self.run_id, self._refused = sender.run.run_id, sender.refused
        self._on_run(sender.run.run_id)
        self._opened.set()
        while True:
            self._news.clear()
            while sender.num_left:
                if self._retry(sender.send_next) is None:
                    return
            if self._closing.is_set():
                self.is_complete = True
                return
            self._news.wait()

    def _retry(self, action: Callable[[], Any]) -> Any:
        """Return the result of an action, retried until a while after the search; None if it never succeeded."""
        delay_s = 1.0
        while True:
            try:
                done = action()
                self._last_sent, self._is_full = time.monotonic(), False
                if self._is_away:
                    self._is_away = False
                    self._say("The tracking server is back.")
                return done
            except Exception as error:
                self._refusal = refusal_of(error)
                self._why, self._is_full = reason_of(error, self._server.uri), is_full(error)
                _log.debug("tracking: %s", self._why)
                if self._refusal is not None:
                    self._say(
                        f"Nothing is tracked at {redacted(self._server.uri)}: {self._refusal}. The search goes on; "
                        f"what is to be tracked is kept in {self._spool.path}"
                    )
                    return None
                self._say_away()
                if time.monotonic() > self._deadline:
                    return None
                if self._closing.wait(delay_s):
                    self._given_up.wait(CLOSING_DELAY_S)
                delay_s = min(2 * delay_s, 30.0)

    def _say_away(self) -> None:
        if not self._is_away and not self._closing.is_set():
            self._say(
                f"Cannot track at {redacted(self._server.uri)} now: {self._why}. The search goes on; what is to be "
                f"tracked is kept in {self._spool.path}, and sent as soon as possible"
            )
        self._is_away = True


@dataclass(frozen=True)
class Synced:
    """Result of `sync`."""

    target: str
    """The server, with its password."""
    run_id: str
    sent: dict[str, int]
    """Number of operations by kind."""
    refused: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """A sentence on what was sent."""
        where = f"run {self.run_id} at {redacted(self.target)}"
        if not self.sent:
            return f"Nothing was left to send: {where} is complete."
        parts = ", ".join(f"{count} {kind}" for kind, count in self.sent.items())
        kept = f" It would not take {len(self.refused)} of them; {self.refused[0]}." if self.refused else ""
        return f"Sent {parts} to {where}, which is complete now.{kept}"

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values, without the password."""
        server = redacted(self.target)
        return {"server": server, "run_id": self.run_id, "sent": self.sent, "refused": list(self.refused)}


def sync(folder: Path, uri: str | None = None) -> Synced:
    """Return what a run folder has and its run did not have, which is sent now.

    Args:
        folder: of the run.
        uri: of the server; the search's own by default. Another server gets everything.

    Raises:
        ConfigError: `uri` is no address.
        StudyError: nothing was tracked there, a search is still writing, or the server does not answer.
    """
    if uri is not None:
        check_tracking_uri(uri)
    if not is_file(folder / NAME):
        raise StudyError(f"there is no {NAME} in {folder}: name the run folder of a search")
    with Spool(folder) as spool:
        begin = spool.begin
        if begin is None:
            raise StudyError(f"{spool.path} holds nothing: the search ended before it began; resume it")
        server = server_of(folder, uri or with_password(begin.uri))
        if HIDDEN in server.uri:
            raise StudyError(f"the password of {server.uri} is not kept: pass --tracking-uri URL")
        _end_killed(spool)
        sent: dict[str, int] = {}
        try:
            sender = Sender(spool, server, begin)
            while sender.num_left:
                for operation in sender.send_next():
                    sent[operation.kind] = sent.get(operation.kind, 0) + 1
        except Exception as error:
            refusal = refusal_of(error)
            what_next = "then call this again" if refusal else "try again later"
            raise StudyError(
                f"cannot send to {redacted(server.uri)}: {refusal or reason_of(error, server.uri)}. What was sent "
                f"stays sent; {what_next}"
            ) from None
    return Synced(server.uri, sender.run.run_id, sent, tuple(sender.refused))


def _end_killed(spool: Spool) -> None:
    """End the run of a driver that was killed: no one else holds the file, so it is not running any more."""
    last = next((each for each in reversed(spool.operations) if isinstance(each, Status)), None)
    if last is not None and last.status == "RUNNING":
        spool.append(Status(status="KILLED", time_ms=spool.operations[-1].time_ms))

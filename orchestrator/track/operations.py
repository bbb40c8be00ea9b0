"""Tracked operations as data: the lines of a run folder's `tracking.jsonl`.

Each can be sent again without a second trace: it holds its own time, and whatever it makes is found by name.
"""

from __future__ import annotations

import time
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

RunStatus = Literal["RUNNING", "FINISHED", "KILLED", "FAILED"]


def now_ms() -> int:
    """Return the time in MLflow's format: milliseconds since 1970."""
    return int(time.time() * 1000)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
    time_ms: int = Field(default_factory=now_ms)


class Begin(_Line):
    """A search began, or was continued. The last one says where it is tracked."""

    kind: Literal["begin"] = "begin"
    key: str
    """Key of the search: the tag by which its run is found on any server."""
    experiment: str
    run_name: str
    uri: str | None = None
    """Address of the server, without a password; None for the database beside the run folder."""


class Params(_Line):
    """Parameters; known ones keep their values."""

    kind: Literal["params"] = "params"
    params: dict[str, str]


class Metrics(_Line):
    """(name, value, step) points."""

    kind: Literal["metrics"] = "metrics"
    points: list[tuple[str, float, int]]


class Tags(_Line):
    """Tags of the run."""

    kind: Literal["tags"] = "tags"
    tags: dict[str, str]


class TrackedSplit(BaseModel):
    """One split of a data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    digest: str
    context: str
    """Name of the split."""
    path: str
    profile: dict[str, int | str]


class Inputs(_Line):
    """The data that was searched on."""

    kind: Literal["inputs"] = "inputs"
    splits: list[TrackedSplit]


class Child(_Line):
    """The run of one finalist; an existing one for the same mask is updated."""

    kind: Literal["child"] = "child"
    words: str
    name: str
    metrics: dict[str, float]
    tags: dict[str, str]


class Deselect(_Line):
    """Only this mask's run is the selected one: before it was continued, a search may have selected another."""

    kind: Literal["deselect"] = "deselect"
    words: str


class Status(_Line):
    """The search runs, or has ended."""

    kind: Literal["status"] = "status"
    status: RunStatus


class Artifact(_Line):
    """A file of the run folder, in its state when it is sent."""

    kind: Literal["artifact"] = "artifact"
    path: str
    """Path within the run folder."""


class Sent(_Line):
    """The number of this file's operations that are in a run."""

    kind: Literal["sent"] = "sent"
    run_id: str
    count: int


Operation = Params | Metrics | Tags | Inputs | Child | Deselect | Status | Artifact
Line = Begin | Sent | Operation

LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])
"""Reads one line."""

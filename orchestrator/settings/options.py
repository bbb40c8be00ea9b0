"""The options of `headmask.search` and its kin, for editors and type checkers: the names of the command line's flags.

What each setting is, and what it may be, is said in `orchestrator.sections`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

AnyPath = str | Path


class PoolOptions(TypedDict, total=False):
    """Where masks are scored."""

    pool: Literal["ray", "inline"]
    replicas: int | Literal["auto"]
    gpus_per_replica: float
    shards: int | Literal["auto"]
    mixed_devices: bool
    address: str


class BudgetOptions(TypedDict, total=False):
    """When a search stops."""

    masks: int
    seconds: float
    image_forwards: int
    patience: int


class ScanOptions(PoolOptions, total=False):
    """What is scanned, and where."""

    model: str
    pretrained: str
    preprocess: AnyPath
    data: AnyPath | Sequence[AnyPath]
    task: str
    templates: str
    class_names: str
    image_column: str
    caption_column: str
    label_column: str
    group_column: str
    split_column: str
    draw_splits: bool
    split_seed: int
    tower: Literal["image", "text"]
    objective: str
    combine: Literal["mean", "worst"]
    ablation: str
    pixels: Literal["stock", "composited"]
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    layers: Sequence[int]
    protect: Sequence[str]
    threads: int
    image_chunk: int | Literal["measure"]
    gate: bool


class SearchOptions(ScanOptions, BudgetOptions, total=False):
    """What is searched, how, and where results go."""

    out: AnyPath
    study: str
    storage: str
    tracking_uri: str
    experiment: str
    fold: bool
    register: str
    guide: str
    max_loss: float | Mapping[str, float]
    strategy: str
    shortlist: int
    gate_share: float
    seed: int
    max_heads: int
    surrogate: bool
    surrogate_gib: float


class ResumeOptions(PoolOptions, BudgetOptions, total=False):
    """What may change when a study goes on."""

    out: AnyPath
    tracking_uri: str

"""The sections of a search's configuration: what each setting is, and what it may be."""

from __future__ import annotations

import numbers
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)

from headmask.border.reading import check_text
from headmask.errors import ConfigError
from headmask.mask import Head
from orchestrator.settings.budget import Budget
from orchestrator.settings.location import absolute, check_location
from orchestrator.settings.modelname import ModelName
from orchestrator.settings.trackinguri import check_tracking_uri
from strategies import check_strategy
from workers.data.prompts import IMAGENET, SIMPLE
from workers.tasks.base import Mix

OBJECTIVE = "objective"
"""The guide's name for the objective itself."""

if TYPE_CHECKING:
    from workers.data.loading import Reading


def _checked_mix(objective: str | None) -> str | None:
    """Return an objective that can be parsed; a mistake counts as one among others."""
    try:
        if objective is not None:
            Mix.parse(objective)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return objective


def _checked_guide(guide: str | None) -> str | None:
    """Return a guide that is the objective or can be parsed."""
    return guide if guide == OBJECTIVE else _checked_mix(guide)


def _number(value: Any) -> Any:
    """Return a number; a boolean is none, nor is a text that holds one."""
    # NumPy's numbers are registered, its booleans are not.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError("must be a number")
    return value


def _count_or(word: str, value: Any, most: int) -> int | str:
    """Return a word, or a number from 1 up, also as text.

    Checked here, because a union of types would report every mistake twice.
    """
    if isinstance(value, str) and value == word:
        return word
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        value = int(value)
    # As other whole numbers, 3.0 is 3.
    is_whole = not isinstance(value, bool) and isinstance(value, numbers.Real) and value == value // 1
    if not is_whole or not 1 <= value <= most:
        raise ValueError(f"must be {word}, or a whole number from 1 to {most:,}")
    return int(value)


def _boolean(value: Any) -> Any:
    # NumPy's booleans are none of Python's.
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise ValueError("must be true or false")
    return bool(value)


def _text(text: str) -> str:
    """Return a text that can name something."""
    if not text.strip():
        raise ValueError("must not be empty")
    if reason := check_text(text):
        raise ValueError(reason)
    return text


Whole = Annotated[int, BeforeValidator(_number)]
"""A whole number. Its range stands with the setting: `Annotated[Whole, Field(ge=..., le=...)]`."""
Real = Annotated[float, BeforeValidator(_number)]
"""A finite number."""
Switch = Annotated[bool, BeforeValidator(_boolean)]
Text = Annotated[str, Strict(), AfterValidator(_text)]
MAX_SEED = 2**63 - 1
MAX_MASKS = 10_000_000
"""In a study: their trials would fill a large machine's memory."""
MAX_HEADS = 1_000_000
MAX_THREADS = 1_024
MAX_CHUNK = 65_536
MAX_POOL = 100_000
"""Replicas, however large the cluster is."""
Seed = Annotated[Whole, Field(ge=0, le=MAX_SEED)]
Threads = Annotated[Whole, Field(ge=1, le=MAX_THREADS)]


class Section(BaseModel):
    """Settings that belong together; unknown ones are refused, and so are numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ModelSection(Section):
    """Which model is searched."""

    name: Text
    """open_clip architecture, a configuration file of one, or `local-dir:` / `hf-hub:` with a folder or repository."""
    pretrained: Text | None = None
    """Tag or checkpoint file."""
    preprocess: Text | None = None
    """How images are prepared: the tag whose way is meant, `openai`, or a JSON file; as the weights say by default."""


class DataSection(Section):
    """Which data it is searched on."""

    path: Text
    """Parquet file, as `headmask data build` writes it."""
    name: Annotated[str, Field(pattern=r"^[\w. -]+$")] | None = None
    """What its metrics begin with where there are several data sets; the file's name without its ending by default."""
    task: Literal["retrieval", "classification", "matching"] | None = None
    """Found by the columns by default."""
    objective: Text | None = None
    """Metric or mix of metrics; the search's by default."""
    guide: Text | None = None
    """What masks are searched by here; the search's by default."""
    max_loss: Annotated[Real, Field(ge=0, le=100)] | None = None
    """Points that the objective may lose here; the data set then limits the search instead of guiding it."""
    image_column: Text | None = None
    """Name of the column; found by its usual names by default."""
    caption_column: Text | None = None
    """The same for captions."""
    label_column: Text | None = None
    """The same for labels."""
    group_column: Text | None = None
    """The same for groups, of which `worst_group` reports the worst."""
    split_column: Text | None = None
    """The same for splits."""
    draw_splits: Switch = False
    """Draw the splits even where the file has a split column."""
    split_seed: Seed = 0
    """Of drawn splits."""
    templates: Text | None = None
    """`imagenet`, `simple` or a file; those that came with the data, or `imagenet`, by default."""
    class_names: Text | None = None
    """File of class names; those of the data by default."""

    @field_validator("objective")
    @classmethod
    def _is_mix(cls, objective: str | None) -> str | None:
        return _checked_mix(objective)

    @field_validator("guide")
    @classmethod
    def _is_guide(cls, guide: str | None) -> str | None:
        return _checked_guide(guide)

    def anywhere(self) -> Self:
        """Return the section with absolute paths."""
        is_file = self.templates is not None and self.templates not in (IMAGENET, SIMPLE)
        return self.model_copy(
            update={
                "path": absolute(self.path),
                "templates": absolute(self.templates) if self.templates is not None and is_file else self.templates,
                "class_names": None if self.class_names is None else absolute(self.class_names),
            }
        )

    def reading(self) -> Reading:
        """Return how the file is read."""
        from workers.data.columns import Columns
        from workers.data.loading import Reading

        return Reading(
            task=self.task,
            columns=Columns(
                image=self.image_column,
                caption=self.caption_column,
                label=self.label_column,
                group=self.group_column,
                split=self.split_column,
            ),
            draw_splits=self.draw_splits,
            split_seed=self.split_seed,
            templates=self.templates,
            class_names=self.class_names,
        )


class SearchSection(Section):
    """What is searched, and how."""

    tower: Literal["image", "text"] = "image"
    """Whose heads are searched."""
    objective: Text | None = None
    """Metric, or mix such as 0.7*t2i_r1 + 0.3*i2t_r1; mean_recall, top1 or group_score by the task by default."""
    guide: Text | None = None
    """Metric or mix that masks are searched by, or `objective`; the objective decides on confirm.

    By default `probability` for metrics by ranks in retrieval, else the objective; it, too, for the worst of data sets.
    """
    combine: Literal["mean", "worst"] = "mean"
    """Of several data sets, the mean of their objectives is maximised, or the smallest of them."""
    ablation: Literal["zero", "mean", "uniform", "cls"] = "zero"
    """What replaces a head."""
    pixels: Literal["stock", "composited"] = "stock"
    """How images become RGB: `stock`, as open_clip's own preprocessing does; `composited`, upright and on white."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Of the search; `auto` is bfloat16 where the hardware computes in it. Finalists are always scored in float32."""
    strategy: Text = "mixture"
    """How masks are proposed: `mixture`, `pairwise`, `genetic`, `gates` or `scan`; slower are `tpe` and `nsga2`."""
    shortlist: Annotated[Whole, Field(ge=1, le=MAX_HEADS)] | None = None
    """Best heads of the scan that `tpe` and `nsga2` search among; 48 by default."""
    gate_share: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Part of the mixture's masks after the scan that come from gates, learned by back-propagation."""
    seed: Seed = 0
    """Of the strategy."""
    block_size: Annotated[Whole, Field(ge=1, le=100_000)] = 32
    """Most masks that are proposed together."""
    layers: tuple[Annotated[Whole, Field(ge=0, le=MAX_HEADS)], ...] | None = None
    """Layers whose heads may be ablated; all by default."""
    protect: tuple[Text, ...] = ()
    """Heads that are never ablated, such as L11H3."""
    max_heads: Annotated[Whole, Field(ge=1, le=MAX_HEADS)] | None = None
    """Most heads in a mask."""
    image_chunk: int | Literal["measure"] | None = None
    """Images (or texts) computed together; a constant of the study, chosen by device and model by default.

    `measure` takes the fastest on this machine at this moment, which may be another number each time.
    """
    threads: Threads = 1
    """CPU threads of one replica; a constant of the study."""
    finalists: Annotated[Whole, Field(ge=1, le=100_000)] = 48
    """Best masks that are re-scored on the confirm split, besides the best ones of every smaller size."""
    surrogate: Switch = True
    """Let strategies predict what masks score by how far embeddings move when single heads go."""
    surrogate_gib: Annotated[Real, Field(gt=0, le=1_000_000)] = 4.0
    """Most memory that these displacements may take; a search that needs more goes without."""
    random_masks: Annotated[Whole, Field(ge=0, le=100_000)] = 40
    """Random masks of the selected one's size, scored on the confirm split for context."""
    gate: Switch = True
    """Refuse a model whose baseline scores at chance level."""

    @field_validator("image_chunk", mode="before")
    @classmethod
    def _number_or_measure(cls, chunk: Any) -> Any:
        return chunk if chunk is None else _count_or("measure", chunk, MAX_CHUNK)

    @field_validator("protect")
    @classmethod
    def _heads_parse(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(Head.parse(head)) for head in heads)

    @field_validator("strategy")
    @classmethod
    def _exists(cls, strategy: str) -> str:
        check_strategy(strategy)
        return strategy

    @field_validator("shortlist")
    @classmethod
    def _has_shortlist(cls, shortlist: int | None, checked: ValidationInfo) -> int | None:
        if "strategy" in checked.data:
            check_strategy(checked.data["strategy"], shortlist)
        return shortlist

    @field_validator("gate_share")
    @classmethod
    def _has_gates(cls, gate_share: float, checked: ValidationInfo) -> float:
        if "strategy" in checked.data:
            check_strategy(checked.data["strategy"], gate_share=gate_share)
        return gate_share

    @field_validator("objective")
    @classmethod
    def _is_mix(cls, objective: str | None) -> str | None:
        return _checked_mix(objective)

    @field_validator("guide")
    @classmethod
    def _is_guide(cls, guide: str | None) -> str | None:
        return _checked_guide(guide)


class BudgetSection(Section):
    """When to stop, whichever comes first. All but the number of masks end a search after a whole block; 0 lifts them.

    No part of the fingerprint: a study goes on with another budget.
    """

    masks: Annotated[Whole, Field(ge=1, le=MAX_MASKS)] = 1000
    """Distinct masks scored on the search split."""
    seconds: Annotated[Real, Field(gt=0, le=1e9)] | None = None
    """Of this run of the driver."""
    image_forwards: Annotated[Whole, Field(ge=1, le=10**15)] | None = None
    """Plain forward passes of one image (or text), as predicted for the masks that are searched."""
    patience: Annotated[Whole, Field(ge=1, le=MAX_MASKS)] | None = None
    """Blocks in a row without a better mask."""

    @field_validator("seconds", "image_forwards", "patience", mode="before")
    @classmethod
    def _zero_is_none(cls, limit: Any) -> Any:
        return None if limit == 0 and not isinstance(limit, bool) else limit

    def budget(self) -> Budget:
        """Return the budget of a search."""
        return Budget(self.masks, self.seconds, self.image_forwards, self.patience)


class PoolSection(Section):
    """Where masks are scored."""

    kind: Literal["ray", "inline"] = "ray"
    """On Ray, or in the process of the driver."""
    replicas: int | Literal["auto"] = "auto"
    """Number of Ray replicas; by default as many as there is room for, when nodes join or leave, too."""
    gpus_per_replica: Annotated[Real, Field(ge=0, le=1_024)] | None = None
    """1, a part of 1 for several replicas on a GPU, or 0 for replicas on CPUs; 1 where there are GPUs by default."""
    shards: int | Literal["auto"] = "auto"
    """Replicas that share the images out and score as one; by default what is predicted to cost less."""
    mixed_devices: Switch = False
    """Let devices of different kinds score one study: the last bits of its scores then depend on who computed them."""
    address: Text | None = None
    """Ray cluster to join; Ray starts on this machine by default."""

    @field_validator("replicas", "shards", mode="before")
    @classmethod
    def _number_or_auto(cls, count: Any) -> Any:
        return "auto" if count is None else _count_or("auto", count, MAX_POOL)

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.shards == "auto" or self.shards == 1:
            return self
        if self.kind == "inline":
            raise ValueError(f"shards is for replicas on Ray; got {self.shards} with the inline pool")
        if self.replicas != "auto" and self.replicas % self.shards:
            raise ValueError(f"replicas must be a multiple of shards ({self.shards}), got {self.replicas}")
        return self

    @field_validator("gpus_per_replica")
    @classmethod
    def _whole_or_part(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"must be a whole number of GPUs, or a part of one; got {gpus:g}")
        return gpus


class OutputSection(Section):
    """Where results go."""

    folder: Text
    """Run folder."""
    study: Text | None = None
    """Name of the study; the folder's name by default."""
    storage: Text | None = None
    """Journal file or database URL; `study.journal` in the folder by default."""
    tracking_uri: Text | None = None
    """MLflow server or store; by default that of `MLFLOW_TRACKING_URI`, or else `mlflow.db` beside the folder."""
    experiment: Text = "headmask"
    """MLflow experiment."""
    fold: Switch = False
    """Fold a reliable mask into `folded`, a model folder, at the end."""
    register_as: Text | None = None
    """Name, or name@alias, under which the model of a reliable mask is registered in MLflow at the end."""

    @field_validator("storage")
    @classmethod
    def _is_known(cls, storage: str | None) -> str | None:
        if storage is not None:
            check_location(storage)
        return storage

    @field_validator("tracking_uri")
    @classmethod
    def _is_address(cls, uri: str | None) -> str | None:
        return uri if uri is None else check_tracking_uri(uri)

    @field_validator("register_as")
    @classmethod
    def _is_model_name(cls, name: str | None) -> str | None:
        try:
            return name if name is None else str(ModelName.parse(name))
        except ConfigError as error:
            raise ValueError(str(error)) from None

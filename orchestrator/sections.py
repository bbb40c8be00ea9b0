"""The sections of a search's configuration: what each setting is, and what it may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from headmask.errors import ConfigError
from headmask.mask import Head
from orchestrator.budget import Budget
from orchestrator.location import absolute, check_location
from orchestrator.modelname import ModelName
from strategies import check_strategy
from workers.prompts import IMAGENET, SIMPLE
from workers.tasks import Mix

OBJECTIVE = "objective"
"""The guide's name for the objective itself."""

if TYPE_CHECKING:
    from workers.loading import Reading


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


PositiveInt = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Settings that belong together; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelSection(Section):
    """Which model is searched."""

    name: str
    """open_clip architecture, a configuration file of one, or `local-dir:` / `hf-hub:` with a folder or repository."""
    pretrained: str | None = None
    """Tag or checkpoint file."""
    preprocess: str | None = None
    """How images are prepared: the tag whose way is meant, `openai`, or a JSON file; as the weights say by default."""


class DataSection(Section):
    """Which data it is searched on."""

    path: str
    """Parquet file, as `headmask data build` writes it."""
    name: Annotated[str, Field(pattern=r"^[\w. -]+$")] | None = None
    """What its metrics begin with where there are several data sets; the file's name without its ending by default."""
    task: Literal["retrieval", "classification", "matching"] | None = None
    """Found by the columns by default."""
    objective: str | None = None
    """Metric or mix of metrics; the search's by default."""
    guide: str | None = None
    """What masks are searched by here; the search's by default."""
    max_loss: Annotated[float, Field(ge=0)] | None = None
    """Points that the objective may lose here; the data set then limits the search instead of guiding it."""
    image_column: str | None = None
    """Name of the column; found by its usual names by default."""
    caption_column: str | None = None
    """The same for captions."""
    label_column: str | None = None
    """The same for labels."""
    group_column: str | None = None
    """The same for groups, of which `worst_group` reports the worst."""
    split_column: str | None = None
    """The same for splits."""
    draw_splits: bool = False
    """Draw the splits even where the file has a split column."""
    split_seed: int = 0
    """Of drawn splits."""
    templates: str | None = None
    """`imagenet`, `simple` or a file; those that came with the data, or `imagenet`, by default."""
    class_names: str | None = None
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
        from workers.columns import Columns
        from workers.loading import Reading

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
    objective: str | None = None
    """Metric, or mix such as 0.7*t2i_r1 + 0.3*i2t_r1; mean_recall, top1 or group_score by the task by default."""
    guide: str | None = None
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
    strategy: str = "mixture"
    """How masks are proposed: `mixture`, `pairwise`, `genetic`, `gates` or `scan`; slower are `tpe` and `nsga2`."""
    shortlist: PositiveInt | None = None
    """Best heads of the scan that `tpe` and `nsga2` search among; 48 by default."""
    gate_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the mixture's masks after the scan that come from gates, learned by back-propagation."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the strategy."""
    block_size: PositiveInt = 32
    """Most masks that are proposed together."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Layers whose heads may be ablated; all by default."""
    protect: tuple[str, ...] = ()
    """Heads that are never ablated, such as L11H3."""
    max_heads: PositiveInt | None = None
    """Most heads in a mask."""
    image_chunk: PositiveInt | None = None
    """Images (or texts) computed together; a constant of the study, measured when it is created by default."""
    threads: PositiveInt = 1
    """CPU threads of one replica; a constant of the study."""
    finalists: Annotated[int, Field(ge=1)] = 48
    """Best masks that are re-scored on the confirm split, besides the best ones of every smaller size."""
    surrogate: bool = True
    """Let strategies predict what masks score by how far embeddings move when single heads go."""
    surrogate_gib: Annotated[float, Field(gt=0)] = 4.0
    """Most memory that these displacements may take; a search that needs more goes without."""
    random_masks: Annotated[int, Field(ge=0)] = 40
    """Random masks of the selected one's size, scored on the confirm split for context."""
    gate: bool = True
    """Refuse a model whose baseline scores at chance level."""

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

    masks: PositiveInt = 1000
    """Distinct masks scored on the search split."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """Of this run of the driver."""
    image_forwards: PositiveInt | None = None
    """Plain forward passes of one image (or text), as predicted for the masks that are searched."""
    patience: PositiveInt | None = None
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
    replicas: PositiveInt | Literal["auto"] = "auto"
    """Number of Ray replicas; by default as many as there is room for, when nodes join or leave, too."""
    gpus_per_replica: Annotated[float, Field(ge=0)] | None = None
    """1, a part of 1 for several replicas on a GPU, or 0 for replicas on CPUs; 1 where there are GPUs by default."""
    shards: PositiveInt | Literal["auto"] = "auto"
    """Replicas that share the images out and score as one; by default what is predicted to cost less."""
    mixed_devices: bool = False
    """Let devices of different kinds score one study: the last bits of its scores then depend on who computed them."""
    address: str | None = None
    """Ray cluster to join; Ray starts on this machine by default."""

    @field_validator("replicas", "shards", mode="before")
    @classmethod
    def _number_or_auto(cls, count: Any) -> Any:
        if count is None:
            return "auto"
        return int(count) if isinstance(count, str) and count.isdecimal() else count

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

    folder: str
    """Run folder."""
    study: str | None = None
    """Name of the study; the folder's name by default."""
    storage: str | None = None
    """Journal file or database URL; `study.journal` in the folder by default."""
    tracking_uri: str | None = None
    """MLflow server or store; `mlflow.db` beside the folder by default."""
    experiment: str = "headmask"
    """MLflow experiment."""
    fold: bool = False
    """Fold a reliable mask into `folded`, a model folder, at the end."""
    register_as: str | None = None
    """Name, or name@alias, under which the model of a reliable mask is registered in MLflow at the end."""

    @field_validator("storage")
    @classmethod
    def _is_known(cls, storage: str | None) -> str | None:
        if storage is not None:
            check_location(storage)
        return storage

    @field_validator("register_as")
    @classmethod
    def _is_model_name(cls, name: str | None) -> str | None:
        try:
            return name if name is None else str(ModelName.parse(name))
        except ConfigError as error:
            raise ValueError(str(error)) from None

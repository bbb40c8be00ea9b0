"""The sections of a search's configuration: every setting, written once.

A setting has a key, a type, a default, a description and further properties in `Setting`. The command line,
`headmask.search`, the reference and the fingerprint are derived from them. Nothing heavy is imported here, because
every call of the command line needs this module.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, ValidationInfo, field_validator, model_validator

from headmask.ablation.rules import AblationName
from headmask.border.schemes import named
from headmask.errors import ConfigError
from orchestrator.settings.budget import Budget
from orchestrator.settings.location import absolute, check_location
from orchestrator.settings.modelname import ModelName
from orchestrator.settings.setting import (
    MAX_CHUNK,
    MAX_HEADS,
    MAX_POOL,
    AnyPath,
    HeadCount,
    MaskCount,
    Real,
    Section,
    Seed,
    Setting,
    Switch,
    Text,
    Threads,
    Whole,
    count_or,
)
from orchestrator.settings.trackinguri import check_tracking_uri

if TYPE_CHECKING:
    from workers.data.loading import Reading

OBJECTIVE = "objective"
"""The guide's name for the objective itself."""
SEARCHED = Setting(fingerprint="value")
"""Decides a study."""
SCANNED = Setting(fingerprint="value", scan=True)
"""Decides a study, and a scan as well."""
READ = Setting(fingerprint="effect", scan=True, reading=True)
"""Says how a data set is read, whose digest decides a study."""
BUDGET = Setting(resume=True)
POOL = Setting(resume=True, scan=True)


def _checked_task(task: str) -> str:
    from workers.tasks.registry import check_task

    return check_task(task)


class _Tasks:
    """Lists the tasks in the schema."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        from workers.tasks.registry import TASKS

        return {**handler(schema), "enum": list(TASKS)}


TaskName = Annotated[Text, AfterValidator(_checked_task), _Tasks()]


def _checked_mix(objective: str | None) -> str | None:
    """Return an objective that can be parsed; a mistake is reported with all others."""
    from workers.tasks.metrics import Mix

    try:
        if objective is not None:
            Mix.parse(objective)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return objective


def _checked_guide(guide: str | None) -> str | None:
    """Return a guide that is the objective or can be parsed."""
    return guide if guide == OBJECTIVE else _checked_mix(guide)


class ModelSection(Section):
    """The model whose heads are searched."""

    name: Annotated[Text, Setting(name="model", fingerprint="effect", scan=True)]
    """CLIP model: an open_clip architecture, NAME.json, `local-dir:FOLDER`, `hf-dir:FOLDER` or `hf-hub:ORG/REPO`."""
    pretrained: Annotated[Text | None, Setting(fingerprint="effect", scan=True, metavar="TAG|FILE|FOLDER")] = None
    """Weights of the model: an open_clip tag or a checkpoint file; a transformers folder is a whole model."""
    preprocess: Annotated[AnyPath | None, Setting(fingerprint="effect", scan=True, metavar="TAG|FILE")] = None
    """Preprocessing of images: that of a pretrained tag, `openai`, or a JSON file; by default, that of the weights."""

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, content: Any) -> Any:
        """Take a folder of transformers that is given as weights alone for the model."""
        if not isinstance(content, dict) or "name" in content or not isinstance(content.get("pretrained"), str):
            return content
        name, pretrained = named(None, content["pretrained"])
        return content if name is None else {**content, "name": name, "pretrained": pretrained}


class DataSection(Section):
    """A data set that is searched on."""

    path: Annotated[AnyPath, Setting(name="data", fingerprint="effect", scan=True, takes="several")]
    """Parquet file of a data set, as `headmask data build` writes it; several are searched on together."""
    name: Annotated[Annotated[str, Field(pattern=r"^[\w. -]+$")] | None, Setting(flag=False)] = None
    """Name of the data set, with which its metrics begin where there are several; by default, the file's name."""
    task: Annotated[TaskName | None, READ] = None
    """Task of the data set, such as retrieval or classification; by default, it follows from the columns."""
    objective: Annotated[Text | None, Setting(fingerprint="effect", flag=False)] = None
    """Metric to maximise on this data set, or a mix of metrics; by default, the objective of the search."""
    guide: Annotated[Text | None, Setting(fingerprint="effect", flag=False)] = None
    """Metric or mix that guides the search on this data set; by default, the guide of the search."""
    max_loss: Annotated[
        Annotated[Real, Field(ge=0, le=100)] | None,
        Setting(fingerprint="effect", takes="by_name", metavar="NAME=POINTS"),
    ] = None
    """Points that the objective may lose on a data set, which then limits the search instead of guiding it."""
    image_column: Annotated[Text | None, READ] = None
    """Name of the image column; by default, it is found by its usual names."""
    caption_column: Annotated[Text | None, READ] = None
    """Name of the caption column; by default, it is found by its usual names."""
    label_column: Annotated[Text | None, READ] = None
    """Name of the label column; by default, it is found by its usual names."""
    group_column: Annotated[Text | None, READ] = None
    """Name of the group column, for worst-group accuracy; by default, it is found by its usual names."""
    split_column: Annotated[Text | None, READ] = None
    """Name of the split column; by default, it is found by its usual names."""
    draw_splits: Annotated[Switch, Setting(fingerprint="effect", scan=True)] = False
    """Draw the splits at random, even where the file has a split column."""
    split_seed: Annotated[Seed, Setting(fingerprint="effect", scan=True)] = 0
    """Seed of splits that are drawn at random."""
    templates: Annotated[AnyPath | None, replace(READ, metavar="NAME|FILE")] = None
    """Prompt templates: those of the data (default), `imagenet` (80), `simple` (7), or a file with {c} in each line."""
    class_names: Annotated[AnyPath | None, READ] = None
    """File of class names in the order of labels, as lines or JSON; by default, the names in the data."""

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
        from workers.data.prompts import IMAGENET, SIMPLE

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

    tower: Annotated[Literal["image", "text"], SCANNED] = "image"
    """Tower whose heads are searched."""
    objective: Annotated[Text | None, Setting(fingerprint="effect", scan=True)] = None
    """Metric to maximise, or a mix such as 0.7*t2i_r1 + 0.3*i2t_r1; by default, the main metric of the task."""
    guide: Annotated[Text | None, Setting(fingerprint="effect", refine=True)] = None
    """Metric or mix that guides the search, and decides on the confirm split between masks of about the same objective.

    By default, `probability` for retrieval metrics that count ranks; otherwise, and for the worst of several data sets,
    `objective`, which stands for the objective itself.
    """
    combine: Annotated[Literal["mean", "worst"], Setting(fingerprint="effect", scan=True)] = "mean"
    """What to maximise over several data sets: the mean of their objectives, or the worst of them."""
    ablation: Annotated[AblationName, SCANNED] = "zero"
    """Rule that says what replaces an ablated head."""
    pixels: Annotated[Literal["stock", "composited"], Setting(fingerprint="effect", scan=True)] = "stock"
    """How images become RGB: `stock`, as in open_clip's own preprocessing; `composited`, upright and on white."""
    precision: Annotated[Literal["auto", "float32", "bfloat16", "float16"], SCANNED] = "auto"
    """Precision of the search, a constant of the study; `auto` is bfloat16 where the hardware computes in it.

    Elsewhere, it is float32. Finalists are always scored in float32.
    """
    strategy: Annotated[Text, SEARCHED] = "mixture"
    """Strategy that proposes masks: `mixture`, `pairwise`, `genetic`, `scales`, `scan`; slower: `tpe` and `nsga2`."""
    shortlist: Annotated[HeadCount | None, SEARCHED] = None
    """Number of the scan's best heads that `tpe` and `nsga2` search among; 48 by default."""
    seed: Annotated[Seed, SEARCHED] = 0
    """Seed of the strategy's random numbers."""
    block_size: Annotated[Whole, Field(ge=1, le=100_000), Setting(fingerprint="value", flag=False)] = 32
    """Maximum number of masks that are proposed together, unless the study is wide."""
    width: Annotated[int | Literal["auto"], Setting(fingerprint="effect", metavar="auto|N")] = "auto"
    """Number of masks in flight, a constant of the study: as many replicas find work. At least 16.

    `auto` is half as many again as there are replicas, or were asked for, when the study is created; a group of shards
    counts as one. Masks in flight do not learn from each other.
    """
    layers: Annotated[
        tuple[Annotated[Whole, Field(ge=0, le=MAX_HEADS)], ...] | None,
        Setting(fingerprint="value", scan=True, metavar="N,N,..."),
    ] = None
    """Layers whose heads may be ablated, such as 9,10,11; all by default."""
    protect: Annotated[tuple[Text, ...], Setting(fingerprint="value", scan=True, metavar="HEAD,HEAD,...")] = ()
    """Heads that are never ablated, such as L11H3."""
    max_heads: Annotated[HeadCount | None, SEARCHED] = None
    """Maximum number of heads in a mask."""
    image_chunk: Annotated[int | Literal["measure"] | None, SCANNED] = None
    """Number of images (or texts) computed together, a constant of the study; by default, chosen by model and device.

    `measure` tries several on this machine and takes the fastest, which may differ each time.
    """
    threads: Annotated[Threads, SCANNED] = 1
    """CPU threads of one replica, a constant of the study."""
    finalists: Annotated[Whole, Field(ge=1, le=100_000), Setting(fingerprint="value", flag=False)] = 48
    """Number of best masks that are scored again on the confirm split, besides the best ones of every smaller size."""
    surrogate: Annotated[Switch, Setting(fingerprint="effect")] = True
    """Use the surrogate, which predicts scores of masks from how embeddings move when single heads are ablated."""
    surrogate_gib: Annotated[Annotated[Real, Field(gt=0, le=1_000_000)] | None, Setting(fingerprint="effect")] = None
    """Maximum memory for the surrogate in GiB; a search that would need more runs without it.

    By default, a quarter of what is free on the driver, and on a replica's host and GPU; shards add up their GPUs.
    """
    random_masks: Annotated[Whole, Field(ge=0, le=100_000), Setting(flag=False)] = 40
    """Number of random masks of the selected mask's size that are scored on the confirm split for context."""
    precheck: Annotated[Switch, Setting(scan=True, formerly="gate")] = True
    """Check the baseline first; refuse a model that scores at chance level or seems to have the wrong activation."""

    @field_validator("image_chunk", mode="before")
    @classmethod
    def _number_or_measure(cls, chunk: Any) -> Any:
        return chunk if chunk is None else count_or("measure", chunk, MAX_CHUNK)

    @field_validator("width", mode="before")
    @classmethod
    def _wide_enough(cls, width: Any) -> Any:
        from strategies import MIN_WIDTH

        return "auto" if width is None else count_or("auto", width, MAX_POOL, MIN_WIDTH)

    @field_validator("protect")
    @classmethod
    def _heads_parse(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        from headmask.mask import Head

        return tuple(str(Head.parse(head)) for head in heads)

    @field_validator("strategy")
    @classmethod
    def _exists(cls, strategy: str) -> str:
        from strategies import check_strategy

        check_strategy(strategy)
        return strategy

    @field_validator("shortlist")
    @classmethod
    def _strategy_has_option(cls, value: Any, checked: ValidationInfo) -> Any:
        from strategies import check_strategy

        if "strategy" in checked.data:
            check_strategy(checked.data["strategy"], **{str(checked.field_name): value})
        return value

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

    masks: Annotated[MaskCount, BUDGET] = 1000
    """Number of distinct masks to score on the search split."""
    seconds: Annotated[Annotated[Real, Field(gt=0, le=1e9)] | None, BUDGET] = None
    """Time limit of this run in seconds; it ends after the block in which that is reached. 0 lifts the limit."""
    image_forwards: Annotated[Annotated[Whole, Field(ge=1, le=10**15)] | None, BUDGET] = None
    """Number of plain forward passes of one image (or text) to spend, as predicted for the masks; 0 lifts the limit."""
    patience: Annotated[MaskCount | None, BUDGET] = None
    """Number of blocks in a row without a better mask after which to stop; 0 lifts the limit."""

    @field_validator("seconds", "image_forwards", "patience", mode="before")
    @classmethod
    def _zero_is_none(cls, limit: Any) -> Any:
        return None if limit == 0 and not isinstance(limit, bool) else limit

    def budget(self) -> Budget:
        """Return the budget of a search."""
        return Budget(self.masks, self.seconds, self.image_forwards, self.patience)


class PoolSection(Section):
    """Where masks are scored."""

    kind: Annotated[Literal["ray", "inline"], Setting(name="pool", resume=True, scan=True)] = "ray"
    """Where masks are scored: by replicas on Ray, or inline, in this process."""
    replicas: Annotated[int | Literal["auto"], POOL] = "auto"
    """Number of Ray replicas; `auto` uses all the room that there is, also when nodes join or leave."""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], POOL] = "auto"
    """Device of the inline pool: `auto` is a CUDA GPU where there is one, else the CPU; `mps` (Apple) is untested."""
    gpus_per_replica: Annotated[Annotated[Real, Field(ge=0, le=1_024)] | None, POOL] = None
    """GPUs per replica: a fraction lets several share one, 0 means CPUs; by default, 1 where there are GPUs."""
    shards: Annotated[int | Literal["auto"], POOL] = "auto"
    """Number of replicas that share the images and score as one; `auto` is the number predicted to cost least."""
    mixed_devices: Annotated[Switch, POOL] = False
    """Let devices of different kinds score one study; the last bits of a score then depend on the device."""
    address: Annotated[Text | None, POOL] = None
    """Address of the Ray cluster to join; by default, Ray starts on this machine."""

    @field_validator("replicas", "shards", mode="before")
    @classmethod
    def _number_or_auto(cls, count: Any) -> Any:
        return "auto" if count is None else count_or("auto", count, MAX_POOL)

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.kind == "ray" and self.device != "auto":
            raise ValueError(
                f"device is for the inline pool, one replica in this process; got {self.device} with Ray, where "
                "gpus_per_replica chooses: pass --pool inline"
            )
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

    folder: Annotated[AnyPath, Setting(name="out", resume=True)]
    """Run folder, for the study, the mask, results and pictures."""
    study: Text | None = None
    """Name of the study; by default, the name of the run folder."""
    storage: Annotated[AnyPath | None, Setting(metavar="FILE|URL")] = None
    """Journal file or database URL that holds the study; by default, `study.journal` in the run folder."""
    tracking_uri: Annotated[Text | None, Setting(resume=True)] = None
    """MLflow server or store; by default, MLFLOW_TRACKING_URI, or else `mlflow.db` beside the run folder.

    A resumed study keeps its own; another one given then receives everything.
    """
    experiment: Text = "headmask"
    """Name of the MLflow experiment."""
    fold: Switch = False
    """Fold a reliable mask into the weights at the end, and write them to `folded`, a model folder."""
    register_as: Annotated[Text | None, Setting(name="register", metavar="NAME[@ALIAS]")] = None
    """Name, or name@alias, under which the folded model of a reliable mask is registered in MLflow at the end."""

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


SECTIONS: dict[str, type[Section]] = {
    "model": ModelSection,
    "data": DataSection,
    "output": OutputSection,
    "search": SearchSection,
    "budget": BudgetSection,
    "pool": PoolSection,
}
"""Every section by its name."""

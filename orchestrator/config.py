"""The configuration of a search: a TOML file, command-line flags over it, validated as a whole.

Every mistake is reported at once, unknown keys with the nearest known name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from headmask.errors import ConfigError, HeadmaskError, did_you_mean
from headmask.mask import Head
from orchestrator.location import check_location, redacted
from strategies import check_strategy

PositiveInt = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """Which model is searched."""

    name: str
    """open_clip architecture, or `local-dir:` / `hf-hub:` with a folder or repository."""
    pretrained: str | None = None
    """Tag or checkpoint file."""


class DataSection(_Section):
    """Which data it is searched on."""

    path: str
    """Parquet file in the Hugging Face image-caption layout."""
    image_column: str | None = None
    caption_column: str | None = None
    split_column: str | None = None
    draw_splits: bool = False
    """Draw the splits even where the file has a split column."""
    split_seed: int = 0


class SearchSection(_Section):
    """What is searched, and how."""

    tower: Literal["image", "text"] = "image"
    """Whose heads are searched."""
    objective: str = "mean_recall"
    ablation: Literal["zero", "mean", "uniform", "cls"] = "zero"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Of the search; `auto` is bfloat16 where the hardware computes in it. Finalists are always scored in float32."""
    strategy: str = "mixture"
    seed: Annotated[int, Field(ge=0)] = 0
    block_size: PositiveInt = 32
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Layers whose heads may be ablated; all by default."""
    protect: tuple[str, ...] = ()
    """Heads that are never ablated, such as L11H3."""
    max_heads: PositiveInt | None = None
    image_chunk: PositiveInt | None = None
    """Images (or texts) computed together; a constant of the study, measured when it is created by default."""
    threads: PositiveInt = 1
    """CPU threads of one replica; a constant of the study."""
    finalists: Annotated[int, Field(ge=1)] = 16
    """Masks re-scored on the confirm split."""
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

    @field_validator("objective")
    @classmethod
    def _is_metric(cls, objective: str) -> str:
        metrics = ("mean_recall", *(f"{direction}_r{k}" for direction in ("t2i", "i2t") for k in (1, 5, 10)))
        if objective not in metrics:
            raise ValueError(f"must be one of {', '.join(metrics)}, got {objective!r}")
        return objective


class BudgetSection(_Section):
    """When to stop: after a number of masks, or of seconds (at the end of a block), whichever comes first."""

    masks: PositiveInt = 1000
    seconds: Annotated[float, Field(gt=0)] | None = None


class PoolSection(_Section):
    """Where masks are scored."""

    kind: Literal["ray", "inline"] = "ray"
    replicas: PositiveInt | None = None
    """Number of Ray replicas; as many as there is room for by default."""
    address: str | None = None
    """Ray cluster to join; Ray starts on this machine by default."""


class OutputSection(_Section):
    """Where results go."""

    folder: str
    study: str | None = None
    """Name of the study; the folder's name by default."""
    storage: str | None = None
    """Journal file or database URL; `study.journal` in the folder by default."""
    tracking_uri: str | None = None
    """MLflow server or store; `mlflow.db` beside the folder by default."""
    experiment: str = "headmask"
    fold: bool = False
    """Fold a reliable mask into `folded`, a model folder, at the end."""

    @field_validator("storage")
    @classmethod
    def _is_known(cls, storage: str | None) -> str | None:
        if storage is not None:
            check_location(storage)
        return storage


class SearchConfig(_Section):
    """Everything a search needs to know."""

    model: ModelSection
    data: DataSection
    output: OutputSection
    search: SearchSection = SearchSection()
    budget: BudgetSection = BudgetSection()
    pool: PoolSection = PoolSection()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output.folder)

    @property
    def study_name(self) -> str:
        """Name of the study."""
        return self.output.study or self.folder.resolve().name

    @property
    def storage(self) -> str:
        """Journal file or database URL."""
        return self.output.storage or str(self.folder / "study.journal")

    def public(self) -> dict[str, Any]:
        """Return everything as JSON values, without passwords. The study's name stays when its folder is moved."""
        content: dict[str, Any] = self.model_dump(mode="json")
        content["output"]["study"] = self.study_name
        for key in ("storage", "tracking_uri"):
            if content["output"][key] is not None:
                content["output"][key] = redacted(content["output"][key])
        return content


def read_config(path: Path | None, flags: Mapping[str, Any]) -> SearchConfig:
    """Return the configuration of a TOML file with flags over it.

    Args:
        path: the file, or None for flags alone.
        flags: dotted keys such as `budget.masks`; None values are left out.

    Raises:
        ConfigError: the file cannot be read, or has mistakes; all of them are listed.
    """
    content: dict[str, Any] = {}
    if path is not None:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from None
    for key, value in flags.items():
        if value is not None:
            section, name = key.split(".")
            part = content.setdefault(section, {})
            if isinstance(part, dict):
                part[name] = value
    return parse_config(content, str(path) if path else "the search")


OPTIONS = {
    "model": "model.name",
    "pretrained": "model.pretrained",
    "data": "data.path",
    "image_column": "data.image_column",
    "caption_column": "data.caption_column",
    "split_column": "data.split_column",
    "draw_splits": "data.draw_splits",
    "split_seed": "data.split_seed",
    "tower": "search.tower",
    "objective": "search.objective",
    "ablation": "search.ablation",
    "precision": "search.precision",
    "strategy": "search.strategy",
    "seed": "search.seed",
    "layers": "search.layers",
    "protect": "search.protect",
    "max_heads": "search.max_heads",
    "threads": "search.threads",
    "image_chunk": "search.image_chunk",
    "gate": "search.gate",
    "masks": "budget.masks",
    "seconds": "budget.seconds",
    "pool": "pool.kind",
    "replicas": "pool.replicas",
    "address": "pool.address",
    "out": "output.folder",
    "study": "output.study",
    "storage": "output.storage",
    "tracking_uri": "output.tracking_uri",
    "experiment": "output.experiment",
    "fold": "output.fold",
}
"""The short names of settings, as the command line and `headmask.search` have them."""


def flags_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by short name as dotted keys, paths as text.

    Raises:
        ConfigError: a name is unknown; the message has the nearest one.
    """
    for name in options:
        if name not in OPTIONS:
            raise ConfigError(f"{name}: unknown option{did_you_mean(name, OPTIONS)}")
    return {OPTIONS[name]: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def parse_config(content: Mapping[str, Any], source: str) -> SearchConfig:
    """Return the configuration that a mapping of sections holds.

    Raises:
        ConfigError: it has mistakes; all of them are listed.
    """
    try:
        return SearchConfig.model_validate(content)
    except (ValidationError, HeadmaskError) as error:
        mistakes = list(_mistakes(error)) if isinstance(error, ValidationError) else [str(error)]
        count = f"{len(mistakes)} mistake{'s' * (len(mistakes) > 1)}"
        raise ConfigError("\n  ".join([f"{source} has {count}:", *mistakes])) from None


def _mistakes(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        key = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            yield f"{key}: unknown key{did_you_mean(key, _known_keys())}"
        elif item["type"] == "missing":
            yield f"{key}: {_MISSING.get(key, 'is required')}"
        else:
            message = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            yield f"{key}: {message}" + ("" if "got" in message else f", got {item['input']!r}")


_MISSING = {
    "model": "say which model, with --model",
    "model.name": "say which model, with --model",
    "data": "say which data, with --data",
    "data.path": "say which data, with --data",
    "output": "say where results go, with --out",
    "output.folder": "say where results go, with --out",
}


def _known_keys() -> list[str]:
    sections = {name: field.annotation for name, field in SearchConfig.model_fields.items()}
    keys = list(sections)
    for section, model in sections.items():
        if isinstance(model, type) and issubclass(model, BaseModel):
            keys += [f"{section}.{name}" for name in model.model_fields]
    return keys

"""The options of `headmask.search` and its kin, for editors and type checkers.

Made by docs/generate.py of `orchestrator.settings.sections`; change that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict


class SearchOptions(TypedDict, total=False):
    """Options of a search."""

    model: str
    """CLIP model: an open_clip architecture, NAME.json, `local-dir:FOLDER`, `hf-dir:FOLDER` or `hf-hub:ORG/REPO`."""
    pretrained: str
    """Weights of the model: an open_clip tag or a checkpoint file; a transformers folder is a whole model."""
    preprocess: str | Path
    """Preprocessing of images: that of a pretrained tag, `openai`, or a JSON file; by default, that of the weights."""
    data: str | Path | Sequence[str | Path]
    """Parquet file of a data set, as `headmask data build` writes it; several are searched on together."""
    task: str
    """Task of the data set, such as retrieval or classification; by default, it follows from the columns."""
    max_loss: float | Mapping[str, float]
    """Points that the objective may lose on a data set, which then limits the search instead of guiding it."""
    image_column: str
    """Name of the image column; by default, it is found by its usual names."""
    caption_column: str
    """Name of the caption column; by default, it is found by its usual names."""
    label_column: str
    """Name of the label column; by default, it is found by its usual names."""
    group_column: str
    """Name of the group column, for worst-group accuracy; by default, it is found by its usual names."""
    split_column: str
    """Name of the split column; by default, it is found by its usual names."""
    draw_splits: bool
    """Draw the splits at random, even where the file has a split column."""
    split_seed: int
    """Seed of splits that are drawn at random."""
    templates: str | Path
    """Prompt templates: those of the data (default), `imagenet` (80), `simple` (7), or a file with {c} in each line."""
    class_names: str | Path
    """File of class names in the order of labels, as lines or JSON; by default, the names in the data."""
    out: str | Path
    """Run folder, for the study, the mask, results and pictures."""
    study: str
    """Name of the study; by default, the name of the run folder."""
    storage: str | Path
    """Journal file or database URL that holds the study; by default, `study.journal` in the run folder."""
    tracking_uri: str
    """MLflow server or store; by default, MLFLOW_TRACKING_URI, or else `mlflow.db` beside the run folder. A resumed
    study keeps its own; another one given then receives everything.
    """
    experiment: str
    """Name of the MLflow experiment."""
    fold: bool
    """Fold a reliable mask into the weights at the end, and write them to `folded`, a model folder."""
    register: str
    """Name, or name@alias, under which the folded model of a reliable mask is registered in MLflow at the end."""
    tower: Literal["image", "text"]
    """Tower whose heads are searched."""
    objective: str
    """Metric to maximise, or a mix such as 0.7*t2i_r1 + 0.3*i2t_r1; by default, the main metric of the task."""
    guide: str
    """Metric or mix that guides the search, and decides on the confirm split between masks of about the same
    objective. By default, `probability` for retrieval metrics that count ranks; otherwise, and for the worst of
    several data sets, `objective`, which stands for the objective itself.
    """
    combine: Literal["mean", "worst"]
    """What to maximise over several data sets: the mean of their objectives, or the worst of them."""
    ablation: Literal["zero", "mean", "uniform", "cls"]
    """Rule that says what replaces an ablated head."""
    pixels: Literal["stock", "composited"]
    """How images become RGB: `stock`, as in open_clip's own preprocessing; `composited`, upright and on white."""
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    """Precision of the search, a constant of the study; `auto` is bfloat16 where the hardware computes in it.
    Elsewhere, it is float32. Finalists are always scored in float32.
    """
    strategy: str
    """Strategy that proposes masks: `mixture`, `pairwise`, `genetic`, `scales`, `scan`; slower: `tpe` and `nsga2`."""
    shortlist: int
    """Number of the scan's best heads that `tpe` and `nsga2` search among; 48 by default."""
    seed: int
    """Seed of the strategy's random numbers."""
    width: int | Literal["auto"]
    """Number of masks in flight, a constant of the study: as many replicas find work. At least 16. `auto` is half as
    many again as there are replicas, or were asked for, when the study is created; a group of shards counts as one.
    Masks in flight do not learn from each other.
    """
    layers: Sequence[int]
    """Layers whose heads may be ablated, such as 9,10,11; all by default."""
    protect: Sequence[str]
    """Heads that are never ablated, such as L11H3."""
    max_heads: int
    """Maximum number of heads in a mask."""
    image_chunk: int | Literal["measure"]
    """Number of images (or texts) computed together, a constant of the study; by default, chosen by model and device.
    `measure` tries several on this machine and takes the fastest, which may differ each time.
    """
    threads: int
    """CPU threads of one replica, a constant of the study."""
    surrogate: bool
    """Use the surrogate, which predicts scores of masks from how embeddings move when single heads are ablated."""
    surrogate_gib: float
    """Maximum memory for the surrogate in GiB; a search that would need more runs without it. By default, a quarter of
    what is free on the driver, and on a replica's host and GPU; shards add up their GPUs.
    """
    precheck: bool
    """Check the baseline first; refuse a model that scores at chance level or seems to have the wrong activation."""
    masks: int
    """Number of distinct masks to score on the search split."""
    seconds: float
    """Time limit of this run in seconds; it ends after the block in which that is reached. 0 lifts the limit."""
    image_forwards: int
    """Number of plain forward passes of one image (or text) to spend, as predicted for the masks; 0 lifts the limit."""
    patience: int
    """Number of blocks in a row without a better mask after which to stop; 0 lifts the limit."""
    pool: Literal["ray", "inline"]
    """Where masks are scored: by replicas on Ray, or inline, in this process."""
    replicas: int | Literal["auto"]
    """Number of Ray replicas; `auto` uses all the room that there is, also when nodes join or leave."""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """Device of the inline pool: `auto` is a CUDA GPU where there is one, else the CPU; `mps` (Apple) is untested."""
    gpus_per_replica: float
    """GPUs per replica: a fraction lets several share one, 0 means CPUs; by default, 1 where there are GPUs."""
    shards: int | Literal["auto"]
    """Number of replicas that share the images and score as one; `auto` is the number predicted to cost least."""
    mixed_devices: bool
    """Let devices of different kinds score one study; the last bits of a score then depend on the device."""
    address: str
    """Address of the Ray cluster to join; by default, Ray starts on this machine."""


class ResumeOptions(TypedDict, total=False):
    """Options that may change when a study is resumed."""

    out: str | Path
    """Run folder, for the study, the mask, results and pictures."""
    tracking_uri: str
    """MLflow server or store; by default, MLFLOW_TRACKING_URI, or else `mlflow.db` beside the run folder. A resumed
    study keeps its own; another one given then receives everything.
    """
    masks: int
    """Number of distinct masks to score on the search split."""
    seconds: float
    """Time limit of this run in seconds; it ends after the block in which that is reached. 0 lifts the limit."""
    image_forwards: int
    """Number of plain forward passes of one image (or text) to spend, as predicted for the masks; 0 lifts the limit."""
    patience: int
    """Number of blocks in a row without a better mask after which to stop; 0 lifts the limit."""
    pool: Literal["ray", "inline"]
    """Where masks are scored: by replicas on Ray, or inline, in this process."""
    replicas: int | Literal["auto"]
    """Number of Ray replicas; `auto` uses all the room that there is, also when nodes join or leave."""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """Device of the inline pool: `auto` is a CUDA GPU where there is one, else the CPU; `mps` (Apple) is untested."""
    gpus_per_replica: float
    """GPUs per replica: a fraction lets several share one, 0 means CPUs; by default, 1 where there are GPUs."""
    shards: int | Literal["auto"]
    """Number of replicas that share the images and score as one; `auto` is the number predicted to cost least."""
    mixed_devices: bool
    """Let devices of different kinds score one study; the last bits of a score then depend on the device."""
    address: str
    """Address of the Ray cluster to join; by default, Ray starts on this machine."""


class ScanOptions(TypedDict, total=False):
    """Options of a scan."""

    model: str
    """CLIP model: an open_clip architecture, NAME.json, `local-dir:FOLDER`, `hf-dir:FOLDER` or `hf-hub:ORG/REPO`."""
    pretrained: str
    """Weights of the model: an open_clip tag or a checkpoint file; a transformers folder is a whole model."""
    preprocess: str | Path
    """Preprocessing of images: that of a pretrained tag, `openai`, or a JSON file; by default, that of the weights."""
    data: str | Path | Sequence[str | Path]
    """Parquet file of a data set, as `headmask data build` writes it; several are searched on together."""
    task: str
    """Task of the data set, such as retrieval or classification; by default, it follows from the columns."""
    image_column: str
    """Name of the image column; by default, it is found by its usual names."""
    caption_column: str
    """Name of the caption column; by default, it is found by its usual names."""
    label_column: str
    """Name of the label column; by default, it is found by its usual names."""
    group_column: str
    """Name of the group column, for worst-group accuracy; by default, it is found by its usual names."""
    split_column: str
    """Name of the split column; by default, it is found by its usual names."""
    draw_splits: bool
    """Draw the splits at random, even where the file has a split column."""
    split_seed: int
    """Seed of splits that are drawn at random."""
    templates: str | Path
    """Prompt templates: those of the data (default), `imagenet` (80), `simple` (7), or a file with {c} in each line."""
    class_names: str | Path
    """File of class names in the order of labels, as lines or JSON; by default, the names in the data."""
    tower: Literal["image", "text"]
    """Tower whose heads are searched."""
    objective: str
    """Metric to maximise, or a mix such as 0.7*t2i_r1 + 0.3*i2t_r1; by default, the main metric of the task."""
    combine: Literal["mean", "worst"]
    """What to maximise over several data sets: the mean of their objectives, or the worst of them."""
    ablation: Literal["zero", "mean", "uniform", "cls"]
    """Rule that says what replaces an ablated head."""
    pixels: Literal["stock", "composited"]
    """How images become RGB: `stock`, as in open_clip's own preprocessing; `composited`, upright and on white."""
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    """Precision of the search, a constant of the study; `auto` is bfloat16 where the hardware computes in it.
    Elsewhere, it is float32. Finalists are always scored in float32.
    """
    layers: Sequence[int]
    """Layers whose heads may be ablated, such as 9,10,11; all by default."""
    protect: Sequence[str]
    """Heads that are never ablated, such as L11H3."""
    image_chunk: int | Literal["measure"]
    """Number of images (or texts) computed together, a constant of the study; by default, chosen by model and device.
    `measure` tries several on this machine and takes the fastest, which may differ each time.
    """
    threads: int
    """CPU threads of one replica, a constant of the study."""
    precheck: bool
    """Check the baseline first; refuse a model that scores at chance level or seems to have the wrong activation."""
    pool: Literal["ray", "inline"]
    """Where masks are scored: by replicas on Ray, or inline, in this process."""
    replicas: int | Literal["auto"]
    """Number of Ray replicas; `auto` uses all the room that there is, also when nodes join or leave."""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """Device of the inline pool: `auto` is a CUDA GPU where there is one, else the CPU; `mps` (Apple) is untested."""
    gpus_per_replica: float
    """GPUs per replica: a fraction lets several share one, 0 means CPUs; by default, 1 where there are GPUs."""
    shards: int | Literal["auto"]
    """Number of replicas that share the images and score as one; `auto` is the number predicted to cost least."""
    mixed_devices: bool
    """Let devices of different kinds score one study; the last bits of a score then depend on the device."""
    address: str
    """Address of the Ray cluster to join; by default, Ray starts on this machine."""


class RefineOptions(TypedDict, total=False):
    """Options of a refinement."""

    model: str
    """CLIP model: an open_clip architecture, NAME.json, `local-dir:FOLDER`, `hf-dir:FOLDER` or `hf-hub:ORG/REPO`."""
    pretrained: str
    """Weights of the model: an open_clip tag or a checkpoint file; a transformers folder is a whole model."""
    preprocess: str | Path
    """Preprocessing of images: that of a pretrained tag, `openai`, or a JSON file; by default, that of the weights."""
    data: str | Path | Sequence[str | Path]
    """Parquet file of a data set, as `headmask data build` writes it; several are searched on together."""
    task: str
    """Task of the data set, such as retrieval or classification; by default, it follows from the columns."""
    image_column: str
    """Name of the image column; by default, it is found by its usual names."""
    caption_column: str
    """Name of the caption column; by default, it is found by its usual names."""
    label_column: str
    """Name of the label column; by default, it is found by its usual names."""
    group_column: str
    """Name of the group column, for worst-group accuracy; by default, it is found by its usual names."""
    split_column: str
    """Name of the split column; by default, it is found by its usual names."""
    draw_splits: bool
    """Draw the splits at random, even where the file has a split column."""
    split_seed: int
    """Seed of splits that are drawn at random."""
    templates: str | Path
    """Prompt templates: those of the data (default), `imagenet` (80), `simple` (7), or a file with {c} in each line."""
    class_names: str | Path
    """File of class names in the order of labels, as lines or JSON; by default, the names in the data."""
    out: str | Path
    """Run folder, for the study, the mask, results and pictures."""
    tracking_uri: str
    """MLflow server or store; by default, MLFLOW_TRACKING_URI, or else `mlflow.db` beside the run folder. A resumed
    study keeps its own; another one given then receives everything.
    """
    tower: Literal["image", "text"]
    """Tower whose heads are searched."""
    objective: str
    """Metric to maximise, or a mix such as 0.7*t2i_r1 + 0.3*i2t_r1; by default, the main metric of the task."""
    guide: str
    """Metric or mix that guides the search, and decides on the confirm split between masks of about the same
    objective. By default, `probability` for retrieval metrics that count ranks; otherwise, and for the worst of
    several data sets, `objective`, which stands for the objective itself.
    """
    combine: Literal["mean", "worst"]
    """What to maximise over several data sets: the mean of their objectives, or the worst of them."""
    ablation: Literal["zero", "mean", "uniform", "cls"]
    """Rule that says what replaces an ablated head."""
    pixels: Literal["stock", "composited"]
    """How images become RGB: `stock`, as in open_clip's own preprocessing; `composited`, upright and on white."""
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    """Precision of the search, a constant of the study; `auto` is bfloat16 where the hardware computes in it.
    Elsewhere, it is float32. Finalists are always scored in float32.
    """
    layers: Sequence[int]
    """Layers whose heads may be ablated, such as 9,10,11; all by default."""
    protect: Sequence[str]
    """Heads that are never ablated, such as L11H3."""
    image_chunk: int | Literal["measure"]
    """Number of images (or texts) computed together, a constant of the study; by default, chosen by model and device.
    `measure` tries several on this machine and takes the fastest, which may differ each time.
    """
    threads: int
    """CPU threads of one replica, a constant of the study."""
    precheck: bool
    """Check the baseline first; refuse a model that scores at chance level or seems to have the wrong activation."""
    pool: Literal["ray", "inline"]
    """Where masks are scored: by replicas on Ray, or inline, in this process."""
    replicas: int | Literal["auto"]
    """Number of Ray replicas; `auto` uses all the room that there is, also when nodes join or leave."""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """Device of the inline pool: `auto` is a CUDA GPU where there is one, else the CPU; `mps` (Apple) is untested."""
    gpus_per_replica: float
    """GPUs per replica: a fraction lets several share one, 0 means CPUs; by default, 1 where there are GPUs."""
    shards: int | Literal["auto"]
    """Number of replicas that share the images and score as one; `auto` is the number predicted to cost least."""
    mixed_devices: bool
    """Let devices of different kinds score one study; the last bits of a score then depend on the device."""
    address: str
    """Address of the Ray cluster to join; by default, Ray starts on this machine."""

"""Harm written into the weights of known heads, and whether a search undoes it.

The scenes are of the domain that the model was trained on, where it has no harmful heads of its own: removing exactly
the planted heads is then as good as a mask is known to be.
"""

from __future__ import annotations

import math
import shutil
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.validity.searches import Workload, outcomes_on_test, searched, write_scenes
from headmask.mask import Head, HeadGrid, HeadMask
from headmask.models.loading import LoadedModel, load_model
from headmask.scales import HeadScales
from headmask.tower.towers import view_of
from orchestrator.demo import DEMO_CHUNK
from orchestrator.demo.scenes import CUE
from orchestrator.search.otherside import make_payload
from orchestrator.statistics.paired import Outcomes, paired_interval
from orchestrator.verdict.outcomes import outcomes_of
from workers.data.loading import Split, load_data
from workers.data.preprocess import UInt8Preprocess
from workers.scoring.constants import Constants
from workers.scoring.messages import Stage
from workers.scoring.replica import Replica
from workers.scoring.scorer import ScorerSettings
from workers.tasks.metrics import Mix

MARGIN = 0.01
"""Mean recall by which a selected mask may be worse than removing the planted heads."""
MAX_HEADS = 6
STANDARD_ERRORS = 2.0
"""What planted heads cost at least, in standard errors of the objective on search."""
SCALES = tuple(2 ** (step / 2) for step in range(16))
"""Standard deviation of the noise, in those of the weights it is added to; the first that costs enough is taken."""
OBJECTIVE = Mix.parse("mean_recall")
FAR = 1_000_000
"""Distance between the seeds of galleries: farther than any two plantings are."""


@dataclass(frozen=True)
class Planting:
    """A model with noise in the weights of some heads."""

    model: LoadedModel
    mask: HeadMask
    """The heads with noise."""
    scale: float
    cost: float
    """Mean recall on search that the remedy brings back."""
    standard_error: float
    """Standard error of the mean recall of the model with noise, on search."""


@dataclass(frozen=True)
class Recovery:
    """What a search on a planted model has found; scores are mean recall on test, over all galleries."""

    seed: int
    planted: tuple[str, ...]
    selected: tuple[str, ...]
    scale: float
    cost_on_search: float
    standard_error_on_search: float
    baseline: float
    planted_removed: float
    selected_removed: float
    interval: tuple[float, float]
    """Two-sided 95 % interval of what the selected mask scores more than removing exactly the planted heads."""
    is_reliable: bool

    @property
    def not_inferior(self) -> bool:
        """Whether the interval shows that the selected mask is not worse by the margin."""
        return self.interval[0] > -MARGIN

    @property
    def not_below(self) -> bool:
        """Whether the selected mask's score itself is not lower by more than the margin."""
        return self.selected_removed - self.planted_removed > -MARGIN

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "not_inferior": self.not_inferior, "not_below": self.not_below}


def recover(folder: Path, workload: Workload, seed: int, galleries: int = 1) -> Recovery:
    """Return what a full search finds on a model with noise in 1 to 6 heads, by the seed.

    It is judged on its test split, and on further galleries of as many scenes, if there are to be several.
    """
    data = write_scenes(folder / f"planted{seed}.parquet", seed, workload.sizes, cue=CUE)
    planting = plant(load_model(f"local-dir:{workload.model}"), data, seed)
    planted = write_model(planting.model, workload.model, folder / f"planted{seed}-model")
    outcome = searched(replace(workload, model=planted), data, folder / f"planted{seed}")
    session, selected = outcome.session, outcome.verdict.selected
    masks = [outcome.verdict.baseline, planting.mask, selected]
    looks = [outcomes_on_test(session, masks)]
    for number in range(1, galleries):
        sizes = {"search": workload.sizes["test"], "confirm": 1, "test": 1}
        scenes = write_scenes(folder / f"planted{seed}-{number}.parquet", seed + FAR * number, sizes, cue=CUE)
        split = load_data(scenes, UInt8Preprocess(planting.model.preprocess))["search"]
        looks.append(_outcomes(planting.model, split, list(map(HeadScales.of, masks))))
    baseline, exact, found = map(list, zip(*looks, strict=True))
    shutil.rmtree(planted)
    return Recovery(
        seed=seed,
        planted=tuple(map(str, planting.mask.heads)),
        selected=tuple(map(str, selected.heads)),
        scale=planting.scale,
        cost_on_search=planting.cost,
        standard_error_on_search=planting.standard_error,
        baseline=_mean(baseline),
        planted_removed=_mean(exact),
        selected_removed=_mean(found),
        interval=paired_interval(exact, found),
        is_reliable=outcome.verdict.is_reliable,
    )


def plant(model: LoadedModel, data: Path, seed: int, *, count: int | None = None, remedy: float = 0.0) -> Planting:
    """Return a model with just enough noise in some heads.

    Args:
        model: the model as it is.
        data: its search split decides what is enough.
        seed: of heads and noise.
        count: heads with noise; 1 to 6 by default, as many by turns.
        remedy: scale of these heads that brings back what the noise costs; 0 ablates them.

    Raises:
        RuntimeError: no noise costs enough.
    """
    grid = view_of(model.clip, "image").grid
    heads = _heads(grid, seed, 1 + seed % MAX_HEADS if count is None else count)
    tried = [HeadScales.ones(grid), HeadScales.from_heads(grid, dict.fromkeys(heads.heads, remedy))]
    search = load_data(data, UInt8Preprocess(model.preprocess))["search"]
    for scale in SCALES:
        noisy = with_noise(model, heads.heads, scale, seed)
        before, after = _outcomes(noisy, search, tried)
        planting = Planting(noisy, heads, scale, after.objective() - before.objective(), _standard_error(before))
        if planting.cost >= STANDARD_ERRORS * planting.standard_error:
            return planting
    raise RuntimeError(f"noise of {SCALES[-1]:.0f} times the weights in {heads} does not cost two standard errors")


def _heads(grid: HeadGrid, seed: int, count: int) -> HeadMask:
    """Return random heads."""
    every = list(grid)
    chosen = np.random.default_rng(seed).choice(len(every), size=count, replace=False)
    return HeadMask.from_heads(grid, [every[index] for index in chosen])


def with_noise(model: LoadedModel, heads: tuple[Head, ...], scale: float, seed: int) -> LoadedModel:
    """Return a copy with Gaussian noise on the heads' rows of W_V and columns of W_O: ablation removes all of it."""
    clip, generator = deepcopy(model.clip), torch.Generator().manual_seed(seed)
    view = view_of(clip, "image")
    for layer, head in heads:
        attention = view.attentions[layer]
        part, (value, _) = attention.columns(head), attention.projections()[2]
        for weights in (value[part], attention.out_proj.weight[:, part]):
            weights.add_(scale * weights.std() * torch.randn(weights.shape, generator=generator))
    return replace(model, clip=clip)


def _mean(looks: list[Outcomes]) -> float:
    return float(np.mean([each.objective() for each in looks]))


def _outcomes(model: LoadedModel, split: Split, tried: list[HeadScales]) -> list[Outcomes]:
    """Return outcomes of scales on a split. Texts are as before the noise, so what is cached of them holds."""
    splits = {"search": {"": split}}
    payload = make_payload(model, UInt8Preprocess(model.preprocess), splits, ScorerSettings(), "image")
    replica = Replica(payload, constants=Constants("float32", DEMO_CHUNK))
    scores = [replica.score_scaled(Stage("search", ranks=True), scales.to_array()) for scales in tried]
    return [outcomes_of(split, ranks, OBJECTIVE) for score in scores for ranks in score.ranks or ()]


def _standard_error(outcomes: Outcomes) -> float:
    """Return the standard error of the mean recall; every scene has as many queries as the others."""
    share_C = (outcomes.hits_CK / outcomes.queries_CK).mean(1)
    return float(share_C.std(ddof=1) / math.sqrt(len(share_C)))


def write_model(planted: LoadedModel, model: Path, folder: Path) -> Path:
    """Return a folder, where a model has been written beside the configuration of the one that it was made of."""
    folder.mkdir()
    shutil.copyfile(model / "open_clip_config.json", folder / "open_clip_config.json")
    state = {key: tensor.contiguous() for key, tensor in planted.clip.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder

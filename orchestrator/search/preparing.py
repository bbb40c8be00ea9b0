"""Preparing what a search works on: model and data loaded and checked, the objective, the other side embedded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from headmask.ablation.rules import find_ablation
from headmask.border.reading import is_file
from headmask.border.shown import counted
from headmask.errors import ConfigError
from headmask.mask import HeadGrid
from headmask.models.loading import OPENAI, LoadedModel, load_model
from headmask.models.origin import is_tag
from headmask.tower.towers import view_of
from orchestrator.screen.waiting import said_when_slow
from orchestrator.search.otherside import bare_payload
from orchestrator.search.session import SPLITS, Session
from orchestrator.settings.config import SearchConfig
from orchestrator.settings.location import absolute
from orchestrator.settings.objective import Goal, Objective
from orchestrator.settings.sections import OBJECTIVE, DataSection, ModelSection
from strategies import Limits
from workers.data.loading import Split, check_data, load_data
from workers.data.preprocess import UInt8Preprocess
from workers.pool.inline import InlinePool
from workers.pool.protocol import Pool
from workers.scoring.scorer import ScorerSettings
from workers.tasks.metrics import Mix


def load(config: SearchConfig, say: Callable[[str], None] = lambda text: None) -> Session:
    """Return the session of a configuration as far as it needs no forward pass: model and data, loaded and decoded.

    Args:
        config: the configuration of the search.
        say: receives progress messages of slow steps.

    Raises:
        HeadmaskError: the model, its tower, the data or the limits do not fit; raised before any replica is started.
    """
    search = config.search
    for section in config.data:
        check_data(Path(section.path), section.reading())
    model = load_model(config.model.name, config.model.pretrained, preprocess=config.model.preprocess)
    model = model.with_pixels(search.pixels)
    config = _with_model(config, model)
    for note in model.notes:
        say(note)
    view = view_of(model.clip, search.tower)
    find_ablation(search.ablation).check(has_class_token=view.has_class_token, means=())
    limits = _limits(config, view.grid)
    preprocess = UInt8Preprocess(model.preprocess)
    data = {
        name: load_section(section, preprocess, say=say, may_draw=True) for name, section in config.data_sets.items()
    }
    _check_clipped(config, data)
    objective = make_objective(config, data)
    guide = make_guide(config, data, objective)
    splits = {name: tuple(parts[name] for parts in data.values()) for name in SPLITS}
    settings = ScorerSettings(search.ablation, search.threads)
    prefixes = [goal.prefix for goal in objective.goals]
    arranged = {name: dict(zip(prefixes, parts, strict=True)) for name, parts in splits.items()}
    payload, other = bare_payload(model, preprocess, arranged, settings, search.tower)
    described = preprocess.description
    session = Session(config, model, view, limits, splits, objective, guide, payload, other, described)
    for text in session.remark_sentences():
        say(text)
    return session


def prepare(config: SearchConfig, say: Callable[[str], None] = lambda text: None) -> Session:
    """Return the session of a configuration with everything done that a search needs, in this process.

    Args:
        config: the configuration of the search.
        say: receives progress messages of slow steps.

    Raises:
        HeadmaskError: see `load`; or the tower is refused.
    """
    session = load(config, say)
    with closing(InlinePool(session.payload)) as pool:
        return ready(session, pool, say).embedded(pool, SPLITS, say)


def ready(session: Session, pool: Pool, say: Callable[[str], None] = lambda text: None) -> Session:
    """Return a session with all that is needed before masks are scored on the search split, done by a pool's replicas.

    The tower is proven, the cost of masks counted, and the other side of the search split embedded.

    Raises:
        ModelError: the tower is refused.
    """
    session = session if session.survey else session.surveyed(pool.survey())
    session = replace(session, shards=pool.shards)
    return session.embedded(pool, ["search"], say)


def _with_model(config: SearchConfig, model: LoadedModel) -> SearchConfig:
    """Return the configuration with the model's paths made valid from any folder."""
    wanted, reference = config.model.preprocess, model.reference
    if wanted is not None and is_file(wanted) and wanted != OPENAI and not is_tag(reference.name, wanted):
        wanted = absolute(wanted)
    section = ModelSection(name=reference.name, pretrained=reference.pretrained, preprocess=wanted)
    return config.model_copy(update={"model": section})


def _check_clipped(config: SearchConfig, data: Mapping[str, Mapping[str, Split]]) -> None:
    """Refuse to choose a pixel rule for the user if stock open_clip would make images white or black.

    Raises:
        ConfigError: images have values of more than 8 bits, and no pixel rule is given.
    """
    if "pixels" in config.search.model_fields_set:
        return
    for name, splits in data.items():
        if num_clipped := sum(len(split.remarks.clipped) for split in splits.values()):
            have = "has" if num_clipped == 1 else "have"
            raise ConfigError(
                f"{counted(num_clipped, 'image')} of {name} {have} values of more than 8 bits, which stock open_clip "
                "cuts off at 255, so that they become white or black. Save them with 8 bits; or say with --pixels "
                "composited that they are scaled, here and wherever the model is used; or with --pixels stock that "
                "they are scored as they are"
            )


def load_section(
    section: DataSection,
    preprocess: UInt8Preprocess,
    *,
    whole: bool = False,
    may_draw: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Split]:
    """Return the splits of a data set, decoded."""
    on_progress = said_when_slow(say, f"Decoding the images of {section.path}, once")
    reading = section.reading()
    return load_data(Path(section.path), preprocess, reading, whole=whole, may_draw=may_draw, on_progress=on_progress)


def make_objective(config: SearchConfig, data: Mapping[str, Mapping[str, Split]]) -> Objective:
    """Return the objective: for every data set its own, else the search's, else that of its task.

    Raises:
        ConfigError: an objective uses metrics that a data set's task does not have.
    """
    goals = []
    for name, section in config.data_sets.items():
        targets = data[name]["search"].targets
        mix = Mix.parse(section.objective or config.search.objective or targets.default_objective)
        targets.check(mix, section.path)
        max_loss = None if section.max_loss is None else section.max_loss / 100
        goals.append(Goal(name, mix, max_loss, prefix=f"{name}/" if len(data) > 1 else ""))
    return Objective(tuple(goals), config.search.combine)


def make_guide(config: SearchConfig, data: Mapping[str, Mapping[str, Split]], objective: Objective) -> Objective:
    """Return the guide: for every data set its own, else the search's, else the one for its objective.

    The smallest of several objectives is its own guide, because which one it is depends on the metrics, and a limit
    of loss applies to the objective.

    Raises:
        ConfigError: a guide uses metrics that a data set's task does not have.
    """
    is_worst = objective.combine == "worst" and len(objective.improved) > 1
    mixes = []
    for goal, section in zip(objective.goals, config.data_sets.values(), strict=True):
        targets = data[goal.data]["search"].targets
        text = section.guide or config.search.guide
        if goal.max_loss is not None or text == OBJECTIVE or (text is None and is_worst):
            mixes.append(goal.mix)
        elif text is None:
            mixes.append(goal.mix.guided(targets.guides))
        else:
            mixes.append(Mix.parse(text))
            targets.check(mixes[-1], section.path)
    return objective.guided(mixes)


def _limits(config: SearchConfig, grid: HeadGrid) -> Limits:
    search = config.search
    layers = None if search.layers is None else frozenset(search.layers)
    limits = Limits(layers=layers, protect=frozenset(search.protect), max_heads=search.max_heads)
    limits.check(grid)
    return limits

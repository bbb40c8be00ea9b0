"""The report: a study as one HTML page."""

from __future__ import annotations

import io
import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from headmask.border.foreign import reason_of
from headmask.border.libraries import versions
from headmask.border.reading import read_json
from headmask.border.shown import shown
from headmask.errors import StudyError
from headmask.mask import HeadMask
from orchestrator.outcome.schema import RELIABLE, SearchResult
from orchestrator.outcome.tables import sentences
from orchestrator.pages import data_uri, render, write_page
from orchestrator.report import charts
from orchestrator.report.content import Study, read_study
from orchestrator.report.examples import Changes, changed
from orchestrator.screen.waiting import duration
from orchestrator.settings.budget import STOPS
from orchestrator.settings.config import SearchConfig
from orchestrator.verdict.queries import Queries

FILE = "report.html"
EXPLAINED = Path("explain") / "explain.json"
MAX_FAILURES, MAX_HEADS = 20, 8


def write_report(config: SearchConfig, path: Path) -> None:
    """Write the report on a study.

    Raises:
        HeadmaskError: the study cannot be read.
        OutputError: the page cannot be written, or something else exists at its place.
    """
    write_page(report_html(read_study(config)), path)


def report_html(study: Study) -> str:
    """Return the report on a study."""
    result, missing = study.result, list(study.missing)
    charted, heads = study.baseline is not None, _heads(study)
    explained, problem = _explained(study)
    context: dict[str, Any] = {
        "study": study,
        "result": result,
        "is_reliable": result is not None and result.verdict == RELIABLE,
        "told": [] if result is None else sentences(result),
        "axis": None if result is None else _axis(result),
        "metrics": [] if result is None else _metrics(result),
        "heat_map": charts.heat_map(study) if charted else None,
        "heads": heads,
        "ranked": sorted((cell for _, row in heads for cell in row if (cell[1] or 0) > 0), key=_by_change)[:MAX_HEADS],
        "curves": [charts.curves(study, by_time=by_time) for by_time in (False, True)] if charted else [],
        "pareto": charts.pareto(study) if charted else None,
        "scales": charts.scales(study, result, result.scales) if result is not None and result.scales else [],
        "changes": [_changes(study, part) for part in study.queries if part.split == "test"],
        "explained": explained,
        "result_heads": [] if result is None else result.selected,
        "data_sets": _data_sets(study),
        "strategies": _strategies(study),
        "failures": Counter(record.failure for record in study.records if record.failure).most_common(MAX_FAILURES),
        "devices": sorted({record.device for record in study.records if record.device}),
        "toml": toml_of(study.config),
        "commands": _commands(study.config, result),
        "versions": versions() if result is None else result.versions,
        "stopped": None if result is None else STOPS[result.stopped_by],
        "duration": duration,
        "missing": [*missing, *problem],
    }
    return render("report.html.j2", title=f"headmask report: {study.config.study_name}", has_charts=charted, **context)


def _axis(result: SearchResult) -> tuple[float, float]:
    """Return the ends of the interval's axis, which includes zero, with room at both ends."""
    test = result.splits.test
    low, *_, high = sorted((0.0, test.delta[result.objective], *(test.interval or ())))
    room = 0.12 * max(high - low, 0.001)
    return low - room, high + room


def _metrics(result: SearchResult) -> list[tuple[str, list[tuple[float, float, float]]]]:
    """Return every metric with baseline, selected and change on the three splits; the objective first."""
    parts = (result.splits.search, result.splits.confirm, result.splits.test)
    names = dict.fromkeys([result.objective, *result.splits.test.baseline])
    return [(name, [(part.baseline[name], part.selected[name], part.delta[name]) for part in parts]) for name in names]


def _heads(study: Study) -> list[tuple[int, list[tuple[str, float | None, bool]]]]:
    """Return the scan as rows of layers, top layer first: head, change, whether it is selected."""
    deltas_LH = charts.scan(study).tolist()
    selected = study.selected or HeadMask.empty(study.grid)
    return [
        (
            layer,
            [
                (f"L{layer}H{head}", None if delta != delta else delta, (layer, head) in selected)
                for head, delta in enumerate(deltas_LH[layer])
            ],
        )
        for layer in reversed(range(study.grid.layers))
    ]


def _by_change(cell: tuple[str, float | None, bool]) -> float:
    return -(cell[1] or 0.0)


def _changes(study: Study, queries: Queries) -> Changes:
    return changed(queries, study.config.data_sets[queries.data], study.config.search.pixels)


def _explained(study: Study) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the explanation in the run folder, with its pictures, and what is wrong with it."""
    path = study.config.folder / EXPLAINED
    if not path.is_file():
        return None, []
    try:
        content = read_json(path, "explanation", StudyError)
        for head in content["heads"]:
            head["uri"] = None if head["picture"] is None else _as_webp(path.parent / Path(head["picture"]).name)
    # Pillow raises what a damaged picture makes it stumble over.
    except (OSError, ValueError, LookupError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        return None, [f"{shown(path)} cannot be read ({reason_of(error)}), so what the heads do is not shown."]
    return content, []


def _as_webp(path: Path) -> str:
    """Return a picture as a data URI of a fraction of its size."""
    file = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(file, "WEBP", quality=80)
    return data_uri(file.getvalue(), "image/webp")


def _data_sets(study: Study) -> list[tuple[str, ...]]:
    """Return name, file, task, role, images of confirm and test, and the test split's digest of every data set."""
    parts = {(part.data, part.split): part for part in study.queries}
    rows = []
    for name, section in study.config.data_sets.items():
        confirm, test = parts.get((name, "confirm")), parts.get((name, "test"))
        role = "improved" if section.max_loss is None else f"may lose {section.max_loss:g} points"
        task = section.task or (test.targets.task if test else "by its columns")
        counts = (_num_images(part) for part in (confirm, test))
        rows.append((name, section.path, task, role, *counts, test.digest[:16] if test else "?"))
    return rows


def _num_images(part: Queries | None) -> str:
    if part is None:
        return "?"
    # A query's first image stands for all of them.
    return f"{len(part.table['row'].unique()) * part.targets.images_per_query():,}"


@dataclass(frozen=True)
class Strategy:
    """Contribution of one strategy."""

    name: str
    num_masks: int
    seconds: float
    best: float | None


def _strategies(study: Study) -> list[Strategy]:
    records = defaultdict(list)
    for record in study.records:
        records[record.strategy or "?"].append(record)
    return [
        Strategy(
            name,
            len(found),
            sum(record.seconds for record in found),
            max((record.value for record in found if record.value is not None), default=None),
        )
        for name, found in records.items()
    ]


def toml_of(config: SearchConfig) -> str:
    """Return a configuration as a TOML file for `headmask search`: everything that differs from the defaults."""
    content = config.public()
    changed = config.model_dump(mode="json", exclude_defaults=True)
    changed.setdefault("search", {})["seed"] = content["search"]["seed"]
    changed["output"] = {key: content["output"][key] for key in changed["output"]}
    lines: list[str] = []
    for section, part in changed.items():
        for table in part if isinstance(part, list) else [part]:
            lines += [f"[[{section}]]" if isinstance(part, list) else f"[{section}]", *_keys(table), ""]
    return "\n".join(lines).strip()


def _keys(table: Mapping[str, Any]) -> Iterator[str]:
    # Text, numbers, booleans and lists of them are written in JSON as in TOML.
    return (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items() if value is not None)


def _commands(config: SearchConfig, result: SearchResult | None) -> list[tuple[str, str]]:
    """Return commands to run, each with its purpose."""
    folder = str(config.folder)
    study = (
        [folder]
        if config.output.storage is None
        else [config.study_name, "--storage", config.public()["output"]["storage"]]
    )
    commands = [
        ("the same search again, from the file below", ["search", "search.toml"]),
        ("the study, further", ["resume", *study, "--masks", str(2 * config.budget.masks)]),
    ]
    if result is not None:
        mask = str(config.folder / "mask.json")
        commands += [
            ("the mask on other data", ["eval", "--mask", mask, "--data", "other.parquet"]),
            ("a plain checkpoint", ["export", "--mask", mask, "--out", "refined.safetensors"]),
        ]
    commands.append(("this page", ["report", *study]))
    return [(what, shlex.join(["headmask", *words])) for what, words in commands]

"""What every query earns, kept for later: the file alone gives the figures of the result."""

import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headmask.errors import DataError
from orchestrator.statistics.paired import paired_interval, permutation_p_value
from orchestrator.verdict.decide import DRAWS
from orchestrator.verdict.queries import read_queries
from tests.orchestrator.studies import start
from workers.data.dataset import Dataset
from workers.tasks.metrics import Mix

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize(
    ("name", "objective", "kinds"),
    [
        ("captions", "mean_recall", {"t2i": 60, "i2t": 30}),
        ("labels", "worst_group", {"class": 30}),
        ("pairs", None, {"text": 15, "image": 15, "group": 15}),
    ],
)
@pytest.mark.parametrize("tower", ["image", "text"])
def test_the_file_gives_the_results_figures(tiny_config, tiny_files, task_files, name, objective, kinds, tower):
    path = tiny_files[1] if name == "captions" else task_files / f"{name}.parquet"
    config = tiny_config(data__path=str(path), budget__masks=20, search__objective=objective, search__tower=tower)
    outcome = start(config)
    result = outcome.result
    parts = {part.split: part for part in read_queries(config.folder / "queries.parquet")}
    assert set(parts) == {"confirm", "test"}
    for split, part in parts.items():
        for side in ("baseline", "selected"):
            stored = getattr(getattr(result.splits, split), side)
            values = part.targets.values(part.ranks[side])
            assert values == {metric: stored[metric] for metric in values}
            assert set(values) == set(stored)
        assert part.digest == outcome.session.splits[split][0].digest
    test = parts["test"]
    if name != "captions":
        assert {kind: len(found) for kind, found in test.ranks["baseline"].items() if "_" not in kind} == kinds
    sides = [test.outcomes(side, Mix.parse(result.objective)) for side in ("baseline", "selected")]
    if result.selected:
        assert paired_interval(*sides, draws=DRAWS, seed=0) == result.splits.test.interval
        assert permutation_p_value(*sides, draws=DRAWS, seed=0) == result.splits.test.p_value
        assert (result.splits.test.interval is None) == (name == "pairs")  # 15 pairs are too few
    else:
        # Nothing differs, whatever is drawn.
        assert (result.splits.test.interval, result.splits.test.p_value) == ((0.0, 0.0), 1.0)
    rows = test.table["row"].to_pylist()
    assert {Dataset(path).splits()[row] for row in rows} == {"test"}


def test_every_data_set_has_its_queries(tiny_config, tiny_files, task_files):
    paths = [str(tiny_files[1]), str(task_files / "labels.parquet")]
    outcome = start(tiny_config(data__path=paths, budget__masks=20))
    found = read_queries(outcome.session.config.folder / "queries.parquet")
    assert {(part.data, part.split) for part in found} == {
        (data, split) for data in ("data", "labels") for split in ("confirm", "test")
    }
    tests = [part for part in found if part.split == "test"]
    goals = outcome.session.objective.goals
    before, after = ([part.outcomes(side, goal.mix) for part, goal in zip(tests, goals, strict=True)]
                     for side in ("baseline", "selected"))  # fmt: skip
    combine = outcome.session.objective.over_draws
    assert paired_interval(before, after, combine=combine, draws=DRAWS, seed=0) == outcome.result.splits.test.interval


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "queries.parquet"
    with pytest.raises(DataError, match=f"there is no queries.parquet at {re.escape(str(path))}"):
        read_queries(path)
    pq.write_table(pa.table({"data": ["x"]}), path)
    with pytest.raises(DataError, match=r"is not a queries\.parquet of a search: it lacks split, task"):
        read_queries(path)


def test_results_and_queries_are_read_without_torch_and_ray():
    modules = "orchestrator.verdict.queries, orchestrator.outcome.schema"
    program = f"import sys, {modules}; print({{'torch', 'ray', 'mlflow'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

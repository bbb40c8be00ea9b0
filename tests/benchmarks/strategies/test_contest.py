"""The contest as a whole: what it says of runs, and the command's keys."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.strategies.__main__ import strategies
from benchmarks.strategies.contest import Cell, Run, run_cell
from benchmarks.strategies.meter import Budget
from benchmarks.strategies.plan import plan
from benchmarks.strategies.plot import write_plot
from benchmarks.strategies.summary import Reached, median_interval, reached, row_of, standing
from benchmarks.strategies.tables import standing_tables
from headmask.errors import ConfigError


def run(contestant, best_so_far, seed=0, landscape="one", optimum=0.9, width=None):
    cell = Cell(landscape, contestant, seed, Budget(1_000, width=width))
    return Run(cell, tuple(best_so_far), optimum, 0.0)


def test_regret_is_in_points_below_the_optimum():
    row = row_of([run("a", [0.5, 0.7, 0.9], seed) for seed in range(3)], 2)
    assert row.median_regret == pytest.approx(20)
    assert row.median_value == pytest.approx(70)
    assert row.optimum_share == 0
    assert row_of([run("a", [0.5, 0.9]), run("a", [0.5, 0.8])], 100).optimum_share == 0.5


def test_one_whose_plan_ended_keeps_its_best():
    row = row_of([run("a", [0.5, 0.8])], 300)
    assert row.num_spent == 2
    assert row.median_regret == pytest.approx(10)


def test_masks_are_counted_up_to_the_optimum():
    runs = [run("a", [0.5, 0.9], 0), run("a", [0.9], 1), run("a", [0.5, 0.6, 0.9], 2)]
    assert reached(runs) == Reached("one", "a", None, 2, 3)
    assert reached([*runs, run("a", [0.5], 3)]) == Reached("one", "a", None, 2.5, None)
    assert reached([run("a", [0.5], 3)]) == Reached("one", "a", None, None, None)


def test_a_capped_contestant_is_ranked_with_what_it_had():
    slow = replace(run("slow", [0.5, 0.8]), cell=Cell("one", "slow", 0, Budget(300)))
    found = standing([slow, run("a", [0.9])])
    assert [(row.spent, row.capped) for row in found.rows[:5]] == [
        (50, False),
        (100, False),
        (200, False),
        (300, False),
        (1_000, True),
    ]
    assert found.rows[4].median_regret == pytest.approx(10)
    assert found.mean_rank == {"a": 1.0, "slow": 2.0}


def test_rounds_are_rows_and_tables_for_every_width():
    runs = [run("a", [0.5, 0.7, 0.8, 0.9], width=64), run("b", [0.6, 0.6], width=64), run("a", [0.5] * 2, width=256)]
    found = standing(runs)
    assert [(row.contestant, row.width, row.spent, round(row.median_regret)) for row in found.rows] == [
        ("a", 64, 2, 20),
        ("a", 64, 4, 0),
        ("b", 64, 2, 30),
        ("b", 64, 4, 30),
        ("a", 256, 2, 40),
    ]
    assert not any(row.capped for row in found.rows)
    assert found.mean_rank == {"a": 1.0, "b": 2.0}
    *tables, _ = standing_tables(found)
    assert [str(table.title).split(":")[0] for table in tables] == [
        "one, 64 masks a round, 1 seed",
        "one, 256 masks a round, 1 seed",
    ]


def test_a_plot_is_drawn(tmp_path):
    runs = [run("genetic", [0.5, 0.9]), run("random", [0.5]), run("random", [0.5, 0.7], width=64)]
    write_plot(runs, tmp_path / "new" / "plot.png")
    with Image.open(tmp_path / "new" / "plot.png") as picture:
        assert picture.size > (400, 400)


def test_intervals_of_medians_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    intervals = [median_interval(rng.exponential(size=15)) for _ in range(1_000)]
    assert np.mean([low <= np.log(2) <= high for low, high in intervals]) >= 0.95
    assert median_interval(np.array([3.0, 1.0])) == (1.0, 3.0)


def test_mean_ranks_are_over_landscapes_and_evaluations():
    runs = [run("a", [0.9], landscape=name) for name in ("one", "two")]
    runs += [run("b", [0.8] * 400 + [0.9], landscape="one"), run("b", [0.9], landscape="two")]
    assert standing(runs).mean_rank == {"a": 1.375, "b": 1.625}


def test_a_cell_is_the_same_every_time():
    cell = Cell("cliff-144", "genetic", 5, Budget(200))
    assert run_cell(cell)[0] == run_cell(cell)[0]


def test_a_cell_with_rounds_has_a_value_for_each():
    cell = Cell("cliff-144", "random", 5, Budget(200, width=64))
    assert len(run_cell(cell)[0]) == 4


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"landscapes": ["clif-144"]},
            "landscape must be one of .*; got 'clif-144', did you mean cliff-144",
        ),
        (
            {"names": ["scales"]},
            "scales needs gradients, which takes a tower; got landscape cliff-144: name table-12, demo-48",
        ),
        (
            {"names": ["importance"], "landscapes": ["random-144", "pairwise-384"]},
            "importance needs gradients, which takes a tower; got landscape pairwise-384: name table-12, demo-48",
        ),
        ({"names": ["rndom"]}, "contestant must be one of .*; got 'rndom', did you mean random"),
    ],
)
def test_names_that_do_not_exist_are_refused(names, message):
    with pytest.raises(ConfigError, match=message):
        plan(**names)


def test_widths_and_units_are_those_of_every_cell():
    cells = plan(["cliff-144"], ["random", "tpe"], num_seeds=1, budget=500, unit="forwards", widths=[1, 256])
    assert [(cell.contestant, cell.budget) for cell in cells] == [
        ("random", Budget(500, "forwards", 1)),
        ("tpe", Budget(300, "forwards", 1)),
        ("random", Budget(500, "forwards", 256)),
        ("tpe", Budget(300, "forwards", 256)),
    ]


def test_all_contestants_get_the_same_seeds():
    seeds = {}
    for cell in plan(num_seeds=3, first_seed=7):
        seeds.setdefault((cell.landscape, cell.contestant), []).append(cell.seed)
    assert set(map(tuple, seeds.values())) == {(7, 8, 9)}


def test_the_command_prints_rows_and_mean_ranks(command):
    flags = ["--landscape", "pairwise-144", "--contestant", "random", "--contestant", "greedy-top-k", "--seeds", "2"]
    flags += ["--evaluations", "300", "--processes", "1", "--json"]
    code, out, _ = command(strategies, "benchmarks.strategies", *flags)
    assert code == 0
    content = json.loads(out)
    assert set(content["mean_rank"]) == {"random", "greedy-top-k"}
    assert [(row["contestant"], row["spent"]) for row in content["rows"]] == [
        (name, spent) for name in ("random", "greedy-top-k") for spent in (50, 100, 200, 300)
    ]
    for row in content["rows"]:
        low, high = row["median_regret_interval"]
        assert low <= row["median_regret"] <= high
        low, high = row["optimum_share_interval"]
        assert low <= row["optimum_share"] <= high


def test_the_command_counts_image_forwards_in_rounds(command):
    flags = ["--landscape", "pairwise-144", "--contestant", "mixture", "--contestant", "random", "--seeds", "1"]
    flags += ["--evaluations", "150", "--unit", "forwards", "--width", "64", "--width", "256", "--processes", "1"]
    code, out, _ = command(strategies, "benchmarks.strategies", *flags, "--json")
    assert code == 0
    rounds = {(row["contestant"], row["width"]): row["spent"] for row in json.loads(out)["rows"]}
    # Masks that share their first layers cost less than one each: three rounds of 64 are less than 150.
    assert rounds == {("mixture", 64): 4, ("random", 64): 4, ("mixture", 256): 2, ("random", 256): 2}
    code, out, _ = command(strategies, "benchmarks.strategies", *flags)
    assert code == 0
    assert "pairwise-144, 64 masks a round, 1 seed" in out

"""What is maximised: metrics, mixes of them, the mean or the worst of data sets, within limits of loss."""

import numpy as np
import pytest

from headmask.errors import ConfigError
from orchestrator.settings.objective import Goal, Objective
from workers.tasks.metrics import Mix


def goal(name, text="t2i_r1", max_loss=None):
    return Goal(name, Mix.parse(text), max_loss, prefix=f"{name}/")


METRICS = {"a/t2i_r1": 0.5, "a/i2t_r1": 0.7, "b/t2i_r1": 0.3}


@pytest.mark.parametrize(
    ("text", "expected"), [("t2i_r1", 0.5), ("t2i_r1 + i2t_r1", 0.6), ("3*t2i_r1+1e0 * i2t_r1", 0.55)]
)
def test_a_mix_is_the_weighted_mean_of_metrics(text, expected):
    assert Mix.parse(text).value(METRICS, "a/") == pytest.approx(expected)
    assert Mix.parse(str(Mix.parse(text))) == Mix.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recall", "must be one of mean_recall, t2i_r1, .*group_score, .*, or a mix such as .*, got 'recall'"),
        ("t2i_r1 + top11", r"got 't2i_r1 \+ top11', did you mean top1"),
        ("-1*t2i_r1", "positive weight, got"),
        ("0*t2i_r1", "positive weight, got"),
        ("t2i_r1 + t2i_r1", "every metric once"),
        ("", "must be one of"),
    ],
)
def test_mixes_that_cannot_be_read_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Mix.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t2i_r1", "t2i_mrr"),
        ("mrr", "mrr"),
        ("0.7*t2i_r1 + 0.3*i2t_r1", "0.7*t2i_mrr + 0.3*i2t_mrr"),
        ("0.5*t2i_r1 + 0.25*t2i_r5 + 0.25*t2i_mrr", "t2i_mrr"),
    ],
)
def test_a_mix_is_guided_by_the_mix_of_its_guides(text, expected):
    assert str(Mix.parse(text).guided({"t2i_r1": "t2i_mrr", "t2i_r5": "t2i_mrr", "i2t_r1": "i2t_mrr"})) == expected


@pytest.mark.parametrize("names", [("a",), ("a", "mean of b"), ("a", "b", "c d.e-f")])
@pytest.mark.parametrize("combine", ["mean", "worst"])
def test_an_objective_is_read_as_it_is_written(names, combine):
    guarded = (goal("g", max_loss=0.01),)
    objective = Objective((*map(goal, names), *guarded), combine)
    found = Objective.parse(str(objective), guarded)
    assert found.goals == objective.goals
    assert found.combine == (combine if len(names) > 1 else "mean")


@pytest.mark.parametrize(("combine", "expected"), [("mean", 0.4), ("worst", 0.3)])
def test_several_goals_make_their_mean_or_their_smallest(combine, expected):
    objective = Objective((goal("a"), goal("b")), combine)
    assert objective.value(METRICS, {}) == pytest.approx(expected)
    assert str(objective) == f"{combine} of a/t2i_r1, b/t2i_r1"
    assert objective.named(METRICS)[str(objective)] == pytest.approx(expected)
    draws_RD = np.array([[0.5, 0.3], [0.1, 0.2]])
    assert objective.over_draws(draws_RD)[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [(0.3, 0.5), (0.31, 0.5), (0.32, -0.01), (0.5, -0.19), (0.2, 0.5)],
)
def test_what_is_lost_beyond_the_limit_puts_a_mask_below_all_that_keep_it(baseline, expected):
    """The limit is one point; exactly one point may be lost."""
    objective = Objective((goal("a"), goal("b", max_loss=0.01)))
    assert objective.value(METRICS, {"b/t2i_r1": baseline}) == pytest.approx(expected)
    assert objective.gain(METRICS) == 0.5
    assert str(objective) == "a/t2i_r1"


@pytest.mark.parametrize(
    "goals",
    [
        (Goal("", Mix.parse("0.7*t2i_r1 + 0.3*i2t_r1")),),
        (goal("a"), goal("b", max_loss=0.01)),
        (goal("a", "0.7*t2i_r1 + 0.3*i2t_r1"), goal("b of c")),
    ],
)
def test_an_objective_can_be_read_again_but_for_what_it_may_not_lose(goals):
    objective = Objective(goals, "worst")
    parsed = Objective.parse(str(objective))
    assert parsed.goals == objective.improved
    assert str(parsed) == str(objective)
    assert parsed.combine == ("worst" if len(objective.improved) > 1 else "mean")

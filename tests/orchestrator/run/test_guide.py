"""Masks are searched by the guide; the objective decides on confirm and test."""

import pytest
from mlflow import MlflowClient

from headmask.errors import ConfigError, StudyError
from orchestrator.run.begin import start as start_with
from orchestrator.run.display import PlainDisplay
from orchestrator.run.plan import make_plan
from orchestrator.screen.terminal import Terminal
from orchestrator.search.preparing import prepare
from orchestrator.study.store import StudyStore
from tests.orchestrator.studies import resume, start, trials

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize(
    ("objective", "guide", "expected"),
    [
        (None, None, "probability"),
        ("t2i_r5", None, "probability"),
        ("i2t_r1", None, "probability"),
        ("0.7*t2i_r1 + 0.3*i2t_r10", None, "probability"),
        ("mrr", None, "probability"),
        ("t2i_probability", None, "t2i_probability"),
        (None, "objective", "mean_recall"),
        ("t2i_r1", "log_rank", "log_rank"),
        ("t2i_r1", "0.5*mrr + 0.5*t2i_r10", "0.5*mrr + 0.5*t2i_r10"),
    ],
)
def test_the_guide_follows_from_the_objective_or_is_named(tiny_config, objective, guide, expected):
    session = prepare(tiny_config(search__objective=objective, search__guide=guide))
    assert str(session.guide) == session.fingerprint["guide"] == expected
    assert str(session.objective) == session.fingerprint["objective"] == (objective or "mean_recall")


def test_probabilities_are_measured_at_the_models_temperature(tiny_config):
    session = prepare(tiny_config())
    expected = session.model.clip.logit_scale.exp().item()
    assert expected != 100
    for parts in session.payload.splits.values():
        assert parts[""].targets.scale == pytest.approx(expected)


def test_a_data_set_may_have_a_guide_of_its_own(tiny_config):
    assert str(prepare(tiny_config(search__guide="t2i_mrr", data__guide="log_rank")).guide) == "log_rank"


def test_trials_and_finalists_are_ordered_by_the_guide_and_the_objective_decides_on_confirm(tiny_config):
    config = tiny_config(search__objective="i2t_r10", search__guide="t2i_mrr", search__finalists=6)
    verdict = start(config).verdict
    table = trials(config.folder)
    assert [row["value"] for row in table] == [row["t2i_mrr"] for row in table]
    ranked = sorted(table, key=lambda row: (-row["t2i_mrr"], row["num_heads"], row["words"]))
    expected = {row["mask"] for row in ranked[:6]} | {
        row["mask"] for i, row in enumerate(ranked) if all(row["num_heads"] < each["num_heads"] for each in ranked[:i])
    }
    single = next(row["mask"] for row in ranked if row["num_heads"] == 1)
    assert {str(each.mask) for each in verdict.finalists} == {"", single} | expected
    best = max(verdict.finalists, key=lambda each: each.confirm.metrics["i2t_r10"])
    found = verdict.finalist(verdict.selected)
    assert found.confirm.metrics["i2t_r10"] == best.confirm.metrics["i2t_r10"] or len(found.mask) < len(best.mask)


def test_what_is_searched_by_is_said_everywhere(tiny_config, capsys):
    config = tiny_config()
    console = Terminal(width=200)
    result = start_with(config, PlainDisplay(console)).result
    assert (result.objective, result.guide) == ("mean_recall", "probability")
    assert "40/40 masks" in (shown := capsys.readouterr().out)
    assert "best probability " in shown
    run = MlflowClient(tracking_uri=f"sqlite:///{config.folder.parent / 'mlflow.db'}").get_run(result.mlflow_run_id)
    assert (run.data.params["objective"], run.data.params["guide"]) == ("mean_recall", "probability")
    plan = make_plan(tiny_config("other"))
    assert (plan["objective"], plan["guide"]) == ("mean_recall", "probability")


def test_a_study_that_names_no_guide_is_refused_in_one_sentence(tiny_config):
    config = tiny_config(budget__masks=20)
    start(config)
    with StudyStore.open(config.storage, config.study_name) as store:
        fingerprint = store.attr("fingerprint")
        del fingerprint["guide"]
        store.set_attr("fingerprint", fingerprint)
    with pytest.raises(StudyError, match=r'what it searches has changed:\n  guide: null -> "probability"\n'):
        resume(config)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        ("mmr", "search.guide: must be one of mean_recall, .*, or a mix such as .*, got 'mmr'"),
        ("mean", "search.guide: must be one of"),
    ],
)
def test_guides_that_do_not_exist_are_refused(tiny_config, guide, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(search__guide=guide)


def test_a_guide_of_another_task_is_refused(tiny_config):
    with pytest.raises(
        ConfigError, match=r"top1 is not a metric of .*, a data set for retrieval: there are mean_recall"
    ):
        prepare(tiny_config(search__guide="top1"))

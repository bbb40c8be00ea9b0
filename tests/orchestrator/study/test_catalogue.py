"""What is in a storage: every study with state and progress, without disturbing who runs it."""

import json

import optuna
import pytest
from optuna.trial import create_trial

from headmask.errors import StudyError
from orchestrator.study.catalogue import StudyInfo, begun_studies, list_studies
from orchestrator.study.storage import open_storage
from orchestrator.study.store import StudyStore
from tests.orchestrator.studies import resume, start, trials

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(params=["journal", "postgresql"])
def location(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").new_database()
    return str(tmp_path / "studies.journal")


def test_studies_are_listed_with_state_and_progress(tiny_config, location, headmask):
    config = tiny_config("a", output__storage=location, output__study="done", budget__masks=16)
    result = start(config).result
    start(tiny_config("b", output__storage=location, output__study="older", budget__masks=14))
    with StudyStore.open(location, "older") as store:
        store.set_attr("finished", 3)
    with StudyStore.open(location, "done"):
        done, older = list_studies(location)
    assert (done.name, done.state, older.name, older.state) == ("done", "running", "older", "stopped")
    done, older = list_studies(location)
    assert (done.state, done.masks, done.budget, older.masks) == ("finished", 16, 16, 14)
    assert done.selected == ",".join(result.selected)
    assert done.best == max(row["value"] for row in trials(config.folder))
    code, printed, _ = headmask("studies", "--storage", location)
    assert code == 0
    assert "finished" in printed
    assert "headmask resume NAME --storage" in printed
    assert [each["name"] for each in json.loads(headmask("studies", "--storage", location, "--json")[1])] == [
        "done",
        "older",
    ]


def test_a_larger_budget_makes_a_finished_study_a_stopped_one_until_it_is_reached(tiny_config, tmp_path):
    location = str(tmp_path / "s.journal")
    config = tiny_config("a", output__storage=location, output__study="s", budget__masks=14)
    start(config)
    resume(tiny_config("a", output__storage=location, output__study="s", budget__masks=20))
    (study,) = list_studies(location)
    assert (study.state, study.masks, study.budget) == ("finished", 20, 20)


def test_a_study_is_running_while_it_is_created_and_then_has_not_begun_until_it_has_a_configuration(location):
    with StudyStore.create(location, "s", {}):
        assert list_studies(location) == [StudyInfo("s", "running")]
        assert begun_studies(location) == []
    assert list_studies(location) == [StudyInfo("s", "not begun")]


def test_an_empty_storage_says_so_and_one_that_is_not_there_is_refused(location, tmp_path, headmask):
    with open_storage(location) as storage:
        optuna.create_study(study_name="of somebody else", storage=storage).add_trial(create_trial(value=1.0))
    assert list_studies(location) == []
    assert "There are no studies in" in headmask("studies", "--storage", location)[1]
    with pytest.raises(StudyError, match="there is no study at"):
        list_studies(str(tmp_path / "nothing.journal"))

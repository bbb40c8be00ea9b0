"""How many masks are in flight is settled when a study is created, and stays."""

import pytest

from headmask.errors import StudyError
from orchestrator.run import begin
from orchestrator.run.display import Quiet
from orchestrator.study.stored import read_stored
from tests.orchestrator.studies import resume, start, trials
from workers.pool.inline import InlinePool

pytestmark = pytest.mark.usefixtures("undrawn")


class Said(Quiet):
    """Keeps what is said."""

    def __init__(self):
        self.texts = []

    def say(self, text):
        self.texts.append(text)


@pytest.fixture
def replicas(monkeypatch):
    """Make the inline pool look like one of so many replicas."""

    def look_like(count):
        monkeypatch.setattr(InlinePool, "num_replicas", count)

    return look_like


def test_a_study_is_half_as_wide_again_as_its_replicas_and_keeps_that(tiny_config, replicas):
    replicas(20)
    said, config = Said(), tiny_config(budget__masks=36)
    first = begin.start(config, said).session
    assert (first.width, first.fingerprint["width"]) == (30, 30)
    assert "Keeping 30 masks in flight, for 20 replicas" in said.texts
    assert read_stored(config.storage, config.study_name).config.search.width == 30
    replicas(100)
    said = Said()
    again = begin.resume(tiny_config(budget__masks=60), said).session
    assert (again.width, again.digest) == (30, first.digest)
    assert "This study keeps 30 masks in flight, as it began: some of 100 replicas find no work at times" in said.texts
    replicas(1)
    start(tiny_config("whole", search__width=30, budget__masks=60))
    assert trials(tiny_config().folder) == trials(tiny_config("whole").folder)


def test_few_replicas_have_the_study_of_one(tiny_config, replicas):
    alone = start(tiny_config("alone", budget__masks=30)).session
    replicas(10)
    several = start(tiny_config("several", budget__masks=30)).session
    assert several.digest == alone.digest
    assert "width" not in alone.fingerprint
    assert trials(several.config.folder) == trials(alone.config.folder)


def test_a_study_goes_on_at_its_own_width_only(tiny_config):
    start(tiny_config(budget__masks=20))
    with pytest.raises(StudyError, match=r"what it searches has changed:\n  width: null -> 40\n"):
        resume(tiny_config(search__width=40))

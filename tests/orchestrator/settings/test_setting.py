"""What is said of a setting where it is written."""

from typing import Annotated

import pytest
from pydantic import ValidationError

from orchestrator.settings.sections import BudgetSection, OutputSection, PoolSection, SearchSection
from orchestrator.settings.setting import Section, Setting, Switch, Whole, setting_of


class Oven(Section):
    """An example."""

    degrees: Annotated[Whole, Setting(fingerprint="value")] = 180
    """Temperature of the oven."""
    fan: Annotated[Switch, Setting(formerly="wind")] = False
    """Switch the fan on."""
    rack: Annotated[Annotated[int, Setting(name="level")] | None, Setting(resume=True)] = None
    """Rack to bake on."""
    steam: Annotated[Whole, Setting(fingerprint="changed")] = 0
    """Steam in percent; a setting that came later."""


def test_a_setting_says_what_is_written_with_it():
    fields = Oven.model_fields
    assert setting_of(fields["degrees"]).fingerprint == "value"
    assert setting_of(fields["rack"]) == Setting(resume=True)
    assert fields["fan"].description == "Switch the fan on."


def test_only_values_that_decide_a_study_are_decisive():
    assert Oven(degrees=200, fan=True).decisive() == {"degrees": 200}
    assert Oven(degrees=200, rack=3).decisive() == {"degrees": 200}


def test_a_setting_that_came_later_decides_nothing_at_its_default():
    assert Oven(steam=0).decisive() == {"degrees": 180}
    assert Oven(steam=40).decisive() == {"degrees": 180, "steam": 40}


def test_a_former_name_still_works():
    assert Oven.model_validate({"wind": True}).fan
    with pytest.raises(ValidationError, match="wind\n  Extra inputs"):
        Oven.model_validate({"wind": True, "fan": True})


def test_what_decides_a_study_is_what_decided_the_studies_of_before():
    """Another set of keys is another fingerprint, and no stored study could be resumed."""
    assert set(SearchSection().decisive()) == {
        "tower", "ablation", "precision", "image_chunk", "threads", "strategy", "shortlist", "layers", "protect",
        "max_heads", "block_size", "seed", "finalists",
    }  # fmt: skip
    assert BudgetSection().decisive() == PoolSection().decisive() == OutputSection(folder="run").decisive() == {}


def test_what_may_change_when_a_study_is_resumed_decides_nothing():
    for section in (SearchSection, BudgetSection, PoolSection, OutputSection):
        settings = [setting_of(field) for field in section.model_fields.values()]
        assert not any(setting.resume and setting.fingerprint for setting in settings)

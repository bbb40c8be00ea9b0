"""Settings by the short names that the command line and Python have for them."""

from pathlib import Path

import pytest

from headmask.errors import ConfigError
from orchestrator.settings.config import read_config
from orchestrator.settings.options import MODEL, READING, RESUME, SCAN, SEARCH, flags_of

REQUIRED = {"model.name": "ViT-B-32", "data.path": "data.parquet", "output.folder": "run"}


def test_an_option_is_what_its_setting_says():
    option = SEARCH["max_heads"]
    assert (option.path, option.flag, option.kinds, option.default) == ("search.max_heads", "--max-heads", (int,), None)
    assert option.description == "Maximum number of heads in a mask."
    assert SEARCH["out"].path == "output.folder"
    assert SEARCH["out"].is_path
    assert SEARCH["class_names"].is_path
    assert not SEARCH["study"].is_path


def test_no_two_options_have_one_name():
    assert len({option.path for option in SEARCH.values()}) == len(SEARCH)
    former = {option.setting.formerly for option in SEARCH.values()} - {None}
    assert not former & set(SEARCH)


def test_selections_are_what_the_commands_need():
    assert set(MODEL) == {"model", "pretrained", "preprocess"}
    assert set(RESUME) == {
        "out", "tracking_uri", "masks", "seconds", "image_forwards", "patience",
        "pool", "replicas", "gpus_per_replica", "shards", "mixed_devices", "address", "device",
    }  # fmt: skip
    assert {"task", "image_column", "templates"} < set(READING) < set(SCAN)
    assert not set(SCAN) & {"masks", "strategy", "out", "guide"}


def test_settings_are_given_by_short_name():
    assert flags_of({"masks": 9, "out": Path("run")}) == {"budget.masks": 9, "output.folder": "run"}
    with pytest.raises(ConfigError, match=r"mask: unknown option, did you mean masks\?"):
        flags_of({"mask": 9})
    with pytest.raises(ConfigError, match="seed: unknown option"):
        flags_of({"seed": 9}, RESUME)


def test_the_precheck_is_still_known_as_the_gate(tmp_path):
    assert flags_of({"gate": False}) == {"search.precheck": False}
    path = tmp_path / "search.toml"
    path.write_text("[search]\ngate = false\n")
    assert not read_config(path, REQUIRED).search.precheck
    assert read_config(path, {**REQUIRED, "search.precheck": True}).search.precheck

"""Every mistake of a configuration is reported at once, with the rule, the value and the way out."""

import re

import numpy as np
import pytest

from headmask.errors import ConfigError
from orchestrator.settings.config import SearchConfig, parse_config, parse_stored, read_config
from orchestrator.settings.sections import DataSection

FLAGS = {"model.name": "ViT-B-32", "data.path": "d.parquet", "output.folder": "runs/x"}


def test_flags_override_the_file(tmp_path):
    path = tmp_path / "search.toml"
    path.write_text('[model]\nname = "ViT-L-14"\n[budget]\nmasks = 7\n[search]\nseed = 3\n')
    config = read_config(path, {**FLAGS, "budget.masks": 9, "search.seed": None})
    assert (config.model.name, config.budget.masks, config.search.seed) == ("ViT-B-32", 9, 3)


def test_all_mistakes_are_reported_at_once(tmp_path):
    path = tmp_path / "search.toml"
    path.write_text(
        '[model]\nname = "m"\n[data]\npath = "d"\n[output]\nfolder = "o"\n'
        '[pool]\nreplica = 2\nkind = "cloud"\n[budget]\nmasks = 0\n[search]\nobjective = "recall"\nprotect = ["L1"]\n'
    )
    with pytest.raises(ConfigError) as caught:
        read_config(path, {})
    message = str(caught.value)
    assert message.startswith(f"{path} has 5 mistakes:")
    for line in (
        "pool.replica: unknown key, did you mean pool.replicas?",
        "pool.kind: must be 'ray' or 'inline', got 'cloud'",
        "budget.masks: must be greater than or equal to 1, got 0",
        "search.objective: must be one of mean_recall, t2i_r1",
        "search.protect: ",
    ):
        assert line in message, message


def test_what_is_missing_is_named_by_its_flag():
    with pytest.raises(ConfigError) as caught:
        read_config(None, {})
    assert str(caught.value).splitlines() == [
        "the search has 3 mistakes:",
        "  model: say which model, with --model",
        "  data: say which data, with --data",
        "  output: say where results go, with --out",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [("[model", "cannot read .*search.toml: "), (None, r"there is no configuration file at .*search.toml")],
)
def test_files_that_are_no_toml_are_refused(tmp_path, content, message):
    path = tmp_path / "search.toml"
    if content:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_config(path, FLAGS)


def test_a_section_that_is_no_table_is_a_mistake(tmp_path):
    path = tmp_path / "search.toml"
    path.write_text('model = "ViT-B-32"\n')
    with pytest.raises(ConfigError, match="model: must be"):
        read_config(path, FLAGS)


def test_a_configuration_survives_json():
    config = read_config(None, {**FLAGS, "search.protect": ["L1H2"], "search.layers": [1, 2], "budget.seconds": 5.0})
    assert parse_config(config.model_dump(mode="json"), "again") == config


def test_the_study_is_named_after_the_folder():
    assert read_config(None, FLAGS).study_name == "x"
    assert read_config(None, {**FLAGS, "output.study": "mine"}).study_name == "mine"
    assert read_config(None, FLAGS).storage == "runs/x/study.journal"


NUMBERS = [
    f"{section}.{name}"
    for section, field in SearchConfig.model_fields.items()
    for name, setting in (DataSection if section == "data" else field.annotation).model_fields.items()
    if re.search(r"\bint\b|\bfloat\b|Whole|Real", f"{setting.annotation} {setting.metadata}") and name != "protect"
]


def test_the_settings_with_numbers_are_found():
    assert {"data.split_seed", "budget.seconds", "pool.replicas", "search.threads", "data.max_loss"} <= set(NUMBERS)
    assert len(NUMBERS) >= 19


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [True, float("inf"), float("-inf"), float("nan"), -1, 10**5000, "1e3"],
    ids=["boolean", "infinity", "-infinity", "nan", "-1", "5,000 digits", "text"],
)
def test_no_number_is_a_boolean_a_text_infinite_or_out_of_its_range(key, value):
    if key == "search.layers":
        value = [value]
    with pytest.raises(ConfigError) as caught:
        read_config(None, {**FLAGS, key: value})
    message = str(caught.value)
    assert message.startswith(f"the search has 1 mistake:\n  {key}: must be ")
    assert len(message) < 250


def test_numbers_of_numpy_are_numbers():
    config = read_config(
        None,
        {
            **FLAGS,
            "budget.masks": np.int64(7),
            "search.layers": list(np.arange(2)),
            "search.surrogate_gib": np.float32(0.5),
        },
    )
    assert (config.budget.masks, config.search.layers, config.search.surrogate_gib) == (7, (0, 1), 0.5)


def test_a_stored_configuration_of_0_1_loses_its_share_of_gates():
    content = {
        "model": {"name": "m"},
        "data": {"path": "d"},
        "output": {"folder": "o"},
        "search": {"gate_share": 0.25, "seed": 3, "pixels": "stock"},
    }
    stored = parse_stored(content, "study first")
    assert (stored.search.seed, stored.search.pixels) == (3, "stock")
    with pytest.raises(ConfigError, match=r"search\.gate_share: unknown key"):
        parse_config(content, "search.toml")


@pytest.mark.parametrize("content", ["3", '"x"', "[3]", '["a", "b"]'])
def test_data_that_is_no_table_is_said_whatever_flags_stand_beside(tmp_path, content):
    path = tmp_path / "search.toml"
    path.write_text(f"data = {content}")
    for key, value in (("split_seed", 3), ("max_loss", {"d": 1.0}), ("max_loss", 1.0), ("task", "retrieval")):
        with pytest.raises(ConfigError, match=r"data(\[\d\])?: must be a table"):
            read_config(path, {"model.name": "m", "output.folder": "o", f"data.{key}": value})

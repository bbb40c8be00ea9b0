"""Contests whose rows are kept."""

import json

from benchmarks import record


def test_a_contest_is_kept_with_its_arguments_and_its_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    contest = ["--landscape", "pairwise-144", "--contestant", "random", "--seeds", "1", "--evaluations", "50"]
    path = record.strategies(["--label", "small", *contest, "--processes", "1"])
    assert path.name.endswith("-strategies-small.json")
    assert path.with_suffix(".png").exists()
    content = json.loads(path.read_text())
    assert content["arguments"] == ["--label", "small", *contest, "--processes", "1"]
    assert [row["spent"] for row in content["rows"]] == [50]

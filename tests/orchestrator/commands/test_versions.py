"""`headmask versions`: what is installed beside what was tested."""

import json
import platform
import sys

import torch

from orchestrator.commands import versions


def test_installed_versions_stand_beside_those_that_were_tested(headmask):
    code, out, err = headmask("versions")
    assert (code, err) == (0, "")
    assert f"on {platform.platform()}" in out
    (line,) = [line for line in out.splitlines() if " torch " in line]
    assert torch.__version__.split("+")[0] in line
    assert " to " in line


def test_versions_as_json(headmask):
    code, out, err = headmask("versions", "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["versions"]["torch"]["installed"] == torch.__version__.split("+")[0]
    assert content["versions"]["python"]["installed"] == ".".join(map(str, sys.version_info[:3]))
    assert {"headmask", "platform", "versions"} == set(content)


def test_versions_outside_of_what_was_tested_are_marked(monkeypatch, headmask):
    found = {"torch": "2.8.0", "numpy": "99.1", "pillow": None, "ray": "2.49.2+local"}
    monkeypatch.setattr(versions, "version_of", lambda name: found.get(name, "1.0"))
    _, out, _ = headmask("versions")
    rows = {cells[1].strip(): cells for line in out.splitlines() if len(cells := line.split("│")) > 4}
    assert "older than tested" in rows["torch"][4]
    assert "newer than tested" in rows["numpy"][4]
    assert rows["pillow"][2].strip() == "no"
    assert "tested" not in rows["ray"][4]

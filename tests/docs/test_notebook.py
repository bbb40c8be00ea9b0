"""The notebook runs, names what exists, and tells nothing of the machine that executed it."""

import ast
import re

import nbformat
import pytest

import headmask
from docs.execute import NOTEBOOK, execute

KEPT = nbformat.read(NOTEBOOK, as_version=4)
CODE = [cell for cell in KEPT.cells if cell.cell_type == "code"]


def test_all_cells_are_executed_in_order_without_errors():
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    assert [output for cell in CODE for output in cell.outputs if output.output_type == "error"] == []


def test_names_of_headmask_exist():
    tree = ast.parse("\n".join(cell.source for cell in CODE))
    named = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "headmask"
    }
    assert {"search", "scan", "load"} <= named <= set(headmask.__all__)


def test_outputs_are_kept_without_paths_of_a_machine():
    text = NOTEBOOK.read_text()
    assert '"image/png"' in text
    assert re.findall(r"(?<![\w.:/])/(?:home|root|tmp|usr|work|Users)/[^\"\\ ]*", text) == []
    assert len(text) < 1_000_000


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_shows(tmp_path):
    executed = execute(nbformat.read(NOTEBOOK, as_version=4), tmp_path)
    kinds = [[output.output_type for output in cell.outputs] for cell in executed.cells if cell.cell_type == "code"]
    assert kinds == [[output.output_type for output in cell.outputs] for cell in CODE]
    assert (tmp_path / "runs" / "notebook" / "refined" / "open_clip_config.json").is_file()

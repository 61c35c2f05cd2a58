"""The notebook runs top to bottom on its own, from the library alone, with all of its pictures."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "NeuralPlasticityDemo.ipynb"
TABLES, PICTURES = 3, 8


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(notebook, kind):
    """Everything of one MIME type that the cells show."""
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def printed(notebook):
    return "".join(
        output["text"] for cell in code(notebook) for output in cell.outputs if output.get("name") == "stdout"
    )


def test_it_uses_the_library_only(notebook):
    nbformat.validate(notebook)
    sources = [cell.source for cell in code(notebook)]
    lines = "\n".join(sources).splitlines()
    assert not [line for line in lines if line.lstrip().startswith("!")]  # no command line
    tree = ast.parse("\n".join(line for line in lines if not line.startswith("%")))
    imports = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imports += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    rooms = {name.split(".")[0] for name in imports}
    assert rooms == {"copy", "tempfile", "warnings", "pathlib", "torch", "IPython", "plasticity_env"}


def test_what_is_committed_was_run(notebook):
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert len(shown(notebook, "image/png")) == PICTURES
    assert NOTEBOOK.stat().st_size < 1_000_000
    assert "/tmp" not in printed(notebook)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs_offline(notebook, tmp_path, monkeypatch):
    """Slow: a kernel starts and runs the whole notebook."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fresh = nbformat.from_dict(notebook)
    for cell in code(fresh):
        cell.outputs = []
    NotebookClient(fresh, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    tables = shown(fresh, "text/markdown")
    assert len(shown(fresh, "image/png")) == PICTURES
    assert len(tables) == TABLES
    rows = dict(line.strip("| ").split(" | ", 1) for line in tables[1].splitlines())
    assert {"control", "pruned", "grown, 1x rate", "grown, 5x rate", "revived"} <= set(rows)
    perplexity = {name: float(row.split(" | ")[2]) for name, row in rows.items() if name not in ("arm", "---")}
    assert perplexity["control"] < perplexity["pruned"]  # on the same lessons, heads are worth something
    assert "--- grown, trained" in printed(fresh)
    errors = [output for cell in code(fresh) for output in cell.outputs if output.get("name") == "stderr"]
    assert not errors
    assert not list(tmp_path.iterdir())  # the run's folder is a temporary one

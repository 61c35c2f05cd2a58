"""What README, quickstart and how-to pages show works: their blocks run, and what cannot run here has flags that exist."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import plasticity_env
from plasticity_env import GLOBAL_FEATURES, HEAD_FEATURES, controllers
from plasticity_env.agents.training.agent import AGENTS
from plasticity_env.controllers.planners.planner import PLANNERS
from plasticity_env.envs.level_columns import LEVEL_COLUMNS
from plasticity_env.envs.rewards import REWARDS
from plasticity_env.envs.route_columns import REQUEST_COLUMNS, STRUCTURE_COLUMNS
from plasticity_env.model.layout_table import LAYOUTS
from plasticity_env.repair.registry import REPAIRS
from plasticity_env.signals.scores import SCORES
from plasticity_env.signals.signal import SIGNALS
from tests.page_blocks import PAGES, ROOT, blocks, check

NAMES = {str(page.relative_to(ROOT)): page for page in PAGES}
SLOW = [name for name, page in NAMES.items() if any(mark == "slow" for _, mark in blocks(page))]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder to run in; what blocks register or set leaves with the test."""
    registries = (SIGNALS, SCORES, REWARDS, REPAIRS, controllers.CONTROLLERS, PLANNERS, AGENTS, LAYOUTS)
    before, threads = [dict(registry) for registry in registries], torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    yield
    torch.set_num_threads(threads)
    for registry, kept in zip(registries, before, strict=True):
        registry.clear()
        registry.update(kept)


def run(name: str, *marks: str) -> None:
    """Run the blocks with these marks, in the page's order, in one namespace; check the others."""
    for example, mark in blocks(NAMES[name]):
        if mark in marks:
            example.evaluate()
        else:
            check(example, mark)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_run(name: str) -> None:
    run(name, "")


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_slow_blocks_run_after_the_others(name: str) -> None:
    """Slow: these blocks start worker processes or train."""
    run(name, "", "slow")


@pytest.mark.parametrize("name", NAMES)
def test_no_block_of_code_goes_by_another_name(name: str) -> None:
    """Only blocks of ``python`` and ``bash`` are run or checked, so ``py`` or ``shell`` would escape."""
    fences = re.findall(r"^ *```(\w*)$", NAMES[name].read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(fences) <= {"", "python", "bash", "yaml"}


def test_marks_are_known_and_few() -> None:
    marks = Counter(mark for page in PAGES for _, mark in blocks(page))
    allowed = {
        "",
        "slow",
        *(f"needs: {what}" for what in ("network", "hub", "key", "Ray", "checkout", "another program", "a server")),
    }
    allowed |= {"needs: checkout, half an hour", "needs: key, checkout", "needs: a submission"}
    assert set(marks) <= allowed
    assert marks[""] > marks["slow"] > 0
    assert marks[""] + marks["slow"] > 2 * sum(number for mark, number in marks.items() if mark.startswith("needs"))


@pytest.mark.parametrize("name", NAMES)
def test_links_of_pages_lead_somewhere(name: str) -> None:
    text = re.sub(r"```.*?```", "", NAMES[name].read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert "://" in target or (NAMES[name].parent / target).exists(), target


@pytest.mark.parametrize("name", [*NAMES, "docs/index.md", "docs/concepts.md", "docs/faq.md"])
def test_front_pages_are_short_and_hold_few_figures(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|\]\([^)]*\)|`[^`]*`|^\d+\. ", "", text, flags=re.DOTALL | re.MULTILINE)
    assert len(text.split()) <= 600
    assert len(re.findall(r"(?<![\w-])\d+(?:\.\d+)?", prose)) <= 10  # not GPT-2, Apache-2.0


def test_the_reference_names_what_is_registered() -> None:
    signals = (ROOT / "docs/reference/signals.md").read_text(encoding="utf-8")
    assert [name for name in SIGNALS if f"`{name}`" not in signals and SIGNALS[name].name] == []
    derived = ("entropy_low", "entropy_high", "flap", "fisher_obs", "random")
    assert [name for name in derived if name not in SCORES or f"`{name}`" not in signals] == []
    repairs = (ROOT / "docs/reference/repairs.md").read_text(encoding="utf-8")
    assert [name for name in REPAIRS if f"`{name}`" not in repairs] == []
    page = (ROOT / "docs/how-to/originals.md").read_text(encoding="utf-8")
    doors = [
        path.name for path in (ROOT / "scripts").glob("*.py") if "COMMAND.run()" in path.read_text(encoding="utf-8")
    ]
    assert [name for name in doors if f"`{name}`" not in page] == []


def test_the_documents_files_lead_to_modules_that_exist() -> None:
    page = (ROOT / "docs/how-to/originals.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \| (`\.[^|]+) \|$", page, flags=re.MULTILINE)
    assert len(rows) >= 16
    for there, here in rows:
        assert re.search(r"\.py`|`sentinel\.", there)
        for module in re.findall(r"`(\.[a-z_.]+)`", here):
            assert importlib.util.find_spec(f"plasticity_env{module}"), module
    assert importlib.import_module("plasticity_env.strategies.pruning").ScoreStrategy("magnitude").name == "magnitude"


def test_the_site_inserts_what_the_program_says(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: pip install 'plasticity-env[docs]'")
    monkeypatch.syspath_prepend(ROOT / "docs")
    hooks = importlib.import_module("site_hooks")
    columns = hooks.INSERTS["columns"]
    assert all(f"`{name}`" in columns("heads") for name in HEAD_FEATURES)
    assert all(f"`{name}`" in columns("globals") for name in GLOBAL_FEATURES)
    assert all(f"`{name}`" in columns("levels") for name in LEVEL_COLUMNS)
    assert all(f"`{name}`" in columns("structures") for name in STRUCTURE_COLUMNS)
    assert all(f"`{name}`" in columns("request") for name in REQUEST_COLUMNS)
    assert all(f"`{name}`" in hooks.INSERTS["rewards"]("") for name in REWARDS)
    printed = hooks.INSERTS["commands"]("")
    assert "--pruning_level FLOAT" in printed
    assert "## export" in printed
    card = hooks.INSERTS["file"]("controllers/pretrained/ranker/README.md")
    assert card.startswith("## ranker")
    assert "](lab/controller.md)" in card


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == plasticity_env.__version__ == citation["version"]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for template in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(template.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form), template.name

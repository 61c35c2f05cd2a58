"""The Python and shell blocks of a page, and how each is run in this process or only checked."""

from __future__ import annotations

import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import Any

from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from plasticity_env.__main__ import main
from plasticity_env.agents.commands.command_table import find_command
from plasticity_env.common.arguments import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(ROOT / "docs" / name for name in ("install.md", "quickstart.md", "leaderboard.md"))]
PAGES += sorted((ROOT / "docs/how-to").glob("*.md"))
MARK = re.compile(r"<!-- (slow|needs: [^>]+?) -->\s*\Z")
FOREIGN = "needs: another program"  # one that the tests do not install
# what commands are run with here, where the page does not say it and the command knows it
SMALL: dict[str, Any] = {
    "max_length": 32,
    "calibration_blocks": 4,
    "reward_blocks": 4,
    "test_blocks": 4,
    "num_steps": 2,
    "scenarios": 2,
    "group_size": 2,
    "envs_per_model": 1,
    "seeds": 1,
    "shares": "0.3",
    "repair": "least_squares",
    "workers": 2,
    "wandb_mode": "disabled",
}
SMALLER = {  # what replaces the page's own words
    "train": {"total_timesteps": 8, "horizon": 2, "rounds": "2", "envs_per_model": 1},
    "fine-tune": {"max_steps": 3},
    "run": {
        "model_name": "bard-gpt2-4x4",
        "cycles": 1,
        "warmup_steps": 8,
        "training_steps": 8,
        "stabilisation_window": 4,
    },
    "pages": {"rounds": 2},
    "record": {"episodes": 2, "horizon": 2},
    "clone": {"epochs": 2},
    "tune": {"trials": 2, "total_timesteps": 32},
    "bank": {"model_name": "bard-gpt2-4x4", "blocks": 4},
    "train-router": {"total_steps": 64, "num_envs": 16, "warm_start": 10},
    "evaluate-routers": {"replicates": 50},
    "leaderboard": {"models": "bard-gpt2-4x4"},
    "evaluate": {"model_name": "bard-gpt2-4x4", "sparsities": "0.3", "rounds": 2},
}


def blocks(page: Path) -> list[tuple[Example, str]]:
    """Each block with its mark: "" runs, "slow" runs among the slow tests, "needs: ..." is only checked."""
    document = Document.parse(
        str(page), CodeBlockParser("python", PythonEvaluator()), CodeBlockParser("bash", run_shell)
    )
    found = []
    for example in document:
        mark = MARK.search(document.text[: example.start])
        found.append((example, mark[1] if mark else ""))
    return found


def lines(example: Example) -> Iterator[list[str]]:
    """The commands of a shell block, as words."""
    for line in str(example.parsed).replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run_shell(example: Example) -> None:
    """Run each line of the block, a ``plasticity`` command, in this process with small settings."""
    for words in lines(example):
        assert words[0] == "plasticity", f"{example.path}:{example.line} cannot be run here, so mark it: {words}"
        code = _exit_code(smaller(words[1:]))
        assert not code, f"{example.path}:{example.line} left with {code}: {shlex.join(words)}"


def _exit_code(argv: list[str]) -> object:
    try:
        main(argv)
    except SystemExit as stop:
        return stop.code
    return 0


def check(example: Example, mark: str) -> None:
    """Check a block that is not run: Python compiles, commands and their flags are known, targets and extras exist."""
    if example.region.lexemes["arguments"] == "python":
        compile(example.parsed, example.path, "exec")
        return
    for words in lines(example):
        match words:
            case ["plasticity", name, *rest]:
                command = find_command(name)
                argv = list(rest)
                if "--config" in argv:  # a file of the checkout, or one that an earlier block writes
                    at = argv.index("--config")
                    assert argv[at + 1].startswith("runs/") or (ROOT / argv[at + 1]).is_file(), (
                        f"no file {argv[at + 1]}"
                    )
                    del argv[at : at + 2]
                default = command.arguments()
                parse(type(default), argv, default)
            case ["make", target]:
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
            case ["pip", "install", "-e", what]:
                extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
                assert what.startswith(".")
                assert set(filter(None, what[1:].strip("[]").split(","))) <= set(extras), what
            case ["python", script, *_] if script.startswith("scripts/"):
                assert (ROOT / script).is_file(), f"no file {script}"
            case ["ray", "start", *_]:
                pass
            case _:
                assert mark == FOREIGN, f"{example.path}:{example.line} is not known: {words}"


def smaller(argv: list[str]) -> list[str]:
    """A command line with small settings."""
    if argv[0].startswith("-") or argv[0] == "doctor":
        return argv
    wanted = {
        **{name: value for name, value in SMALL.items() if f"--{name}" not in argv},
        **SMALLER.get(argv[0], {}),
    }
    for name in wanted:
        if f"--{name}" in argv:
            at = argv.index(f"--{name}")
            argv = argv[:at] + argv[at + 2 :]
    return argv + [word for name in wanted if name in _flags(argv[0]) for word in (f"--{name}", str(wanted[name]))]


@cache
def _flags(name: str) -> frozenset[str]:
    """The flags of a command, as its help lists them."""
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        find_command(name).run(["--help"])
    return frozenset(re.findall(r"--(\w+)", printed.getvalue()))

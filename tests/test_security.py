"""SECURITY.md tells the truth: what it names exists, and nothing is loaded in a way that it does not name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [
    path for folder in ("plasticity_env", "agents", "controllers", "scripts") for path in (ROOT / folder).rglob("*.py")
]


def _named(path: str) -> object:
    """What a dotted name stands for."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{path} is named and does not exist")


def test_each_loading_function_that_is_named_exists():
    names = re.findall(r"`(plasticity_env\.[\w.]+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(names) > 10
    assert all(callable(_named(name)) for name in names)


def test_no_file_is_read_by_what_runs_code():
    """Neither a pickle nor a stranger's module, wherever a file is read."""
    ways = re.compile(
        r"pickle\.loads?\(|yaml\.(load|unsafe_load|full_load)\(|allow_pickle=True|trust_remote_code=True|weights_only=False"
        r"|\bjoblib\b|\bdill\b|shelve\.open|marshal\.loads?\("
    )
    own = {"agents/sb3/sb3_archive.py"}  # whose reader refuses names
    found = [str(path.relative_to(ROOT)) for path in FILES if ways.search(path.read_text(encoding="utf-8"))]
    assert sorted(set(found) - own - {f"plasticity_env/{name}" for name in own}) == []


def test_every_call_that_could_run_code_says_that_it_must_not():
    guards = {"torch.load(": "weights_only=True", ".from_pretrained(": "trust_remote_code=False"}
    code_of_strangers = ("AutoModelForCausalLM", "AutoTokenizer", "AutoConfig")  # others have no code to run
    lacking = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for call, guard in guards.items():
            for match in re.finditer(re.escape(call), text):
                before, after = text[: match.start()], text[match.end() : match.end() + 200]
                relevant = call == "torch.load(" or before.endswith(code_of_strangers)
                prose = before.rpartition("\n")[2].count("`") or '"path/to/' in after.partition("\n")[0]
                if relevant and not prose and guard not in after:
                    lacking.append(f"{path.relative_to(ROOT)}: {before.rpartition(chr(10))[2]}{call}")
    assert lacking == []

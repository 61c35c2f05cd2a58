"""What `make docs` puts into the pages: texts of files and of the program, and links that lead out of the site.

A page asks for a text by a comment of its own, such as ``<!-- insert commands -->`` or ``<!-- insert page CHANGELOG.md -->``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

WIDTH = 80  # characters of a line of help
ROOT = Path(__file__).parents[1]
INSERT = re.compile(r"^<!-- insert (\w+)(?: (\S+))? -->$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^[ ]*```.*?^[ ]*```$)", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Insert what the page asks for, then name files of the repository instead of linking to them."""
    markdown = INSERT.sub(lambda found: _inserted(found[1], found[2], page.file.src_uri), markdown)
    return _outside_fences(markdown, lambda part: LINK.sub(lambda found: _link(found, page.file.src_uri, files), part))


def _link(found: re.Match[str], page: str, files: Any) -> str:
    """The link as it is where it stays in the site; the text and the file's name where it leads to a file outside."""
    text, target = found[1], found[2]
    if "://" in target or target.startswith("mailto:"):
        return found[0]
    path = Path(os.path.normpath(ROOT / "docs" / Path(page).parent / target))
    inside = path.relative_to(ROOT / "docs").as_posix() if path.is_relative_to(ROOT / "docs") else None
    source = files.get_file_from_path(inside) if inside else None
    if source is not None and source.inclusion.is_included():
        return found[0]
    if not path.exists():
        raise PluginError(f"{page} links to {target!r}, which does not exist")
    name = path.relative_to(ROOT).as_posix()
    return text if text.strip("`") in (name, path.name, f"{path.name}/") else f"{text} (`{name}`)"


def _inserted(kind: str, argument: str | None, page: str) -> str:
    if kind not in INSERTS:
        raise PluginError(f"{page} asks for {kind!r}: known are {', '.join(INSERTS)}")
    return INSERTS[kind](argument or "")


def _page(name: str) -> str:
    """A Markdown file of the repository, its links as seen from docs/."""
    path = ROOT / name
    if not path.is_file():
        raise PluginError(f"there is no file {name!r} to insert")
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)

    def moved(found: re.Match[str]) -> str:
        if "://" in found[2]:
            return found[0]
        target = os.path.relpath(os.path.normpath(path.parent / found[2]), ROOT / "docs")
        return f"[{found[1]}]({target}{found[3] or ''})"

    return _outside_fences(text, lambda part: LINK.sub(moved, part))


def _file(name: str) -> str:
    """The same as a part of a page: its headings one level down."""
    return _outside_fences(_page(name), lambda part: re.sub(r"^(#{1,5}) ", r"#\1 ", part, flags=re.MULTILINE))


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    parts = FENCE.split(markdown)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def _commands(_: str) -> str:
    """The help of every command, as the program prints it."""
    from plasticity_env.agents.commands.command_table import command_names, find_command, says

    parts = []
    for name in command_names():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            find_command(name).run(["--help"], prog=f"plasticity {name}")
        text = "\n".join(map(_folded, printed.getvalue().strip().splitlines()))
        parts.append(f"## {name}\n\n{says(name)[:1].upper()}{says(name)[1:]}.\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _folded(line: str) -> str:
    """A line of help without colours; a long sentence on several lines."""
    line = re.sub(r"\x1b\[[0-9;]*m", "", line)
    return line if len(line) <= WIDTH else textwrap.fill(line, WIDTH)


def _columns(which: str) -> str:
    """The columns of the newest version, with their bounds; of Levels-v0 and Route-v0 those of their own."""
    from plasticity_env.envs.level_columns import LEVEL_COLUMNS
    from plasticity_env.envs.observation import VERSIONS
    from plasticity_env.envs.route_columns import REQUEST_COLUMNS, STRUCTURE_COLUMNS

    heads, globals_ = VERSIONS[-1]
    kinds = {"heads": heads, "globals": globals_, "levels": LEVEL_COLUMNS}
    kinds |= {"structures": STRUCTURE_COLUMNS, "request": REQUEST_COLUMNS}
    columns = kinds[which]
    rows = [f"| `{name}` | {low:g} | {high:g} |" for name, (low, high) in columns.items()]
    return "\n".join(["| column | least | most |", "|---|---|---|", *rows])


def _rewards(_: str) -> str:
    """The registered rewards."""
    from plasticity_env.envs.rewards import REWARDS

    asks = {"needs_kl": "the KL divergence", "needs_latency": "a timed forward pass", "needs_budget": "a FLOP budget"}
    rows = [
        f"| `{name}` | {', '.join(text for field, text in asks.items() if getattr(rule, field)) or 'nothing more'} "
        f"| {'yes' if rule.deterministic else 'no'} |"
        for name, rule in REWARDS.items()
    ]
    return "\n".join(["| reward | needs | deterministic |", "|---|---|---|", *rows])


INSERTS: dict[str, Callable[[str], str]] = {
    "file": _file,
    "page": _page,
    "commands": _commands,
    "columns": _columns,
    "rewards": _rewards,
}

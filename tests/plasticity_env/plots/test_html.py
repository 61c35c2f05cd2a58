"""Pages are made of templates in which values stay text, what is missing is an error, and nothing is loaded."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import plasticity_env
from plasticity_env.plots.html import Cell, environment, file_links, write_page

ROOT = Path(plasticity_env.__file__).parent
ROOMS = ("plots", "cycle/page", "agents/evaluation", "agents/leaderboard/report")
HOSTILE = "</script><script>alert(1)</script>'\""


def render(source: str, **values: object) -> str:
    page = environment("plasticity_env.plots").from_string('{% import "parts.html" as parts %}' + source)
    return page.render(**values)


def test_values_stay_text_wherever_they_stand() -> None:
    parts = ["note(said)", "missing(said)", "facts([(said, said)])", "details([(said, said)], said)", "nav([said])"]
    parts += ["legend([(said, said, said)])", "options([(said, said)])", "cells([cell, cell])", "files([link])"]
    link = file_links([Path(HOSTILE)], Path("page.html"))[0]
    for part in parts:
        text = render("{{ parts." + part + " }}", said=HOSTILE, cell=Cell(*[HOSTILE] * 5), link=link)
        assert "script&gt;" in text
        assert "<script" not in text
        assert "'" not in text
        assert all('"' not in value for value in re.findall(r'="([^"]*)"', text))


def test_a_long_name_breaks_behind_its_underscores() -> None:
    text = render("{{ parts.facts(pairs) }}", pairs=[("decided by", "residual_stepwise"), ("cycles", 3)])
    assert "<dd>residual_<wbr>stepwise</dd>" in text
    assert "<dd>3</dd>" in text


def test_many_parts_are_folded() -> None:
    few, many = (render("{{ parts.nav(names) }}", names=[f"part {i}" for i in range(n)]) for n in (8, 9))
    assert "<details" not in few
    assert "<summary>9 parts</summary>" in many
    assert many.count('href="#part-') == 9


def test_what_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'nothing' is undefined"):
        render("{{ nothing }}")
    with pytest.raises(UndefinedError, match="no attribute 'colour'"):
        render("{{ cell.colour }}", cell=Cell("x"))


def test_data_is_strict_json_that_ends_no_script(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, "plasticity_env.plots", "base.html", title=HOSTILE, data={"said": HOSTILE, "b": 1, "a": 2})
    text = path.read_text(encoding="utf-8")
    held = text.split('id="page-data">')[1].split("</script>")[0]
    assert list(json.loads(held).items()) == [("said", HOSTILE), ("b", 1), ("a", 2)]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_page(path, "plasticity_env.plots", "base.html", title="x", data={"loss": float("nan")})
    assert path.read_text(encoding="utf-8") == text, "the page that was there stays"


def test_every_page_has_the_policy_and_no_template_loads_or_trusts_anything() -> None:
    files = [path for room in ROOMS for path in sorted((ROOT / room / "templates").iterdir())]
    pages = [path for path in files if path.suffix == ".html" and path.name not in ("base.html", "parts.html")]
    assert len(pages) == 3
    assert all('{% extends "base.html" %}' in path.read_text(encoding="utf-8") for path in pages)
    base = (ROOT / "plots" / "templates" / "base.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', base)
    assert policy
    assert policy.group(1).startswith("default-src 'none'; ")
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|@import|url\(|\|\s*safe|autoescape", text), path.name


def test_templates_are_in_the_package() -> None:
    config = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    data = config["tool"]["setuptools"]["package-data"]
    folders = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).glob("templates/*.html")}
    assert {folder.parent.as_posix() for folder in folders} == set(ROOMS)
    for folder in folders:
        assert "templates/*" in data[".".join(("plasticity_env", *folder.parent.parts))]

"""The rules of the house: arrows go down, one idea a file, one import name; and that what checks them would see a breach."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("plasticity_env", "controllers", "agents", "scripts")
FILES = [
    file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")) if "__pycache__" not in file.parts
]
LINTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def python(code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a folder that comes first on the path."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and what builds and checks it, links as links, in a folder of its own."""
    place = tmp_path_factory.mktemp("house") / "checkout"
    place.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, place / name)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, place / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return place


@pytest.fixture
def plant(copy: Path) -> Iterator[object]:
    """Append lines to a file of the copy; afterwards it is as before."""
    before: dict[Path, str] = {}

    def append(name: str, lines: str) -> None:
        file = copy / name
        before.setdefault(file, file.read_text(encoding="utf-8"))
        file.write_text(f"{before[file]}\n{lines}\n", encoding="utf-8")

    yield append
    for file, text in before.items():
        file.write_text(text, encoding="utf-8")


def test_no_file_imports_itself_in_a_circle() -> None:
    """Type-only and lazy imports count."""
    graph = grimp.build_graph("plasticity_env", cache_dir=None)
    assert "plasticity_env.controllers.base" in graph.modules
    assert "plasticity_env.agents.ppo.ppo" in graph.modules
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # names the circle where there is one


def test_no_two_files_share_a_base_name() -> None:
    places = defaultdict(list)
    for file in FILES:
        if file.stem not in ("__init__", "__main__", "base") and file.parts[len(ROOT.parts)] != "scripts":
            places[file.stem].append(str(file.relative_to(ROOT)))
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_no_file_is_past_400_lines() -> None:
    lines = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert len(lines) > 200
    assert not {name: count for name, count in lines.items() if count > 400}


def test_every_slow_test_says_why() -> None:
    """In its docstring, or in its file's where all of the file is slow."""
    silent, said = [], 0
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        places: list[tuple[str, ast.Module | ast.FunctionDef]] = [
            (node.name, node)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and any("mark.slow" in ast.unparse(d) for d in node.decorator_list)
        ]
        if any(ast.unparse(line).startswith("pytestmark = pytest.mark.slow") for line in tree.body):
            places.append(("the file", tree))
        said += len(places)
        silent += [
            f"{file.relative_to(ROOT)}: {name}"
            for name, node in places
            if "slow" not in (ast.get_docstring(node) or "").lower()
        ]
    assert said > 50
    assert silent == [], 'their docstrings must say it, as "Slow: another process imports torch."'


def test_there_are_at_most_nine_floors() -> None:
    """The contract's; the scripts stand beside the roof; a new room is found a floor by ``exhaustive``."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract for contract in contracts if contract["type"] == "layers"]
    assert layers["exhaustive"]
    assert len(layers["layers"]) <= 9


ARROWS = {
    "up": ("plasticity_env/data/text.py", "import plasticity_env.envs.base"),
    "sideways": ("plasticity_env/plots/charts.py", "from plasticity_env.signals import measure"),
    "type only": ("plasticity_env/model/flops.py", "if TYPE_CHECKING:\n    import plasticity_env.controllers.base"),
    "lazy": ("controllers/base.py", "def late():\n    import plasticity_env.agents.es"),
    "circle": ("plasticity_env/model/modes.py", "import plasticity_env.model.plastic_model"),
    "door": ("agents/es.py", "from plasticity_env import load_model"),
}
SAID = {
    "up": r"plasticity_env\.data\.text -> plasticity_env\.envs\.base \(",
    "sideways": r"plasticity_env\.plots\.charts -> plasticity_env\.signals\.measure \(",
    "type only": r"plasticity_env\.model\.flops -> plasticity_env\.controllers\.base \(",
    "lazy": r"plasticity_env\.controllers\.base -> plasticity_env\.agents\.es \(",
    "circle": r"- \.(plastic_model -> \.modes|modes -> \.plastic_model) \(1 import\)",  # it may be cut on either side
    "door": r"plasticity_env\.agents\.es -> plasticity_env \(",
}


def test_the_contracts_are_kept(copy: Path) -> None:
    found = python(LINTS, copy, "--no-cache", "--no-logo")
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.fixture(scope="module")
def told(copy: Path) -> str:
    """What the contracts say of a copy of the copy with all arrows planted, each in a file of its own."""
    place = copy.with_name("planted")
    shutil.copytree(copy, place, symlinks=True)
    for file, lines in ARROWS.values():
        with (place / file).open("a", encoding="utf-8") as planted:
            planted.write(f"\n{lines}\n")
    found = python(LINTS, place, "--no-cache", "--no-logo")
    assert found.returncode == 1, found.stdout + found.stderr
    assert "3 broken" in found.stdout
    return found.stdout


@pytest.mark.parametrize("name", ARROWS)
def test_a_planted_arrow_is_found(told: str, name: str) -> None:
    assert re.search(SAID[name], told), told


@pytest.mark.slow
@pytest.mark.timeout(900)  # without a cache of `make lint`, mypy reads torch and transformers first
def test_mypy_sees_errors_across_the_links(copy: Path, plant) -> None:
    """Slow: mypy reads torch and transformers, unless `make lint` left its cache."""
    call = "from plasticity_env.{} import {} as _planted\n_planted(no_such_argument=1)"
    plant("controllers/base.py", call.format("signals.linalg", "alike"))
    plant("agents/es.py", call.format("controllers.base", "flat_mask"))
    plant("plasticity_env/data/text.py", call.format("controllers.base", "flat_mask"))
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", copy / ".mypy_cache")
    found = python("from mypy.__main__ import console_entry; console_entry()", copy)
    for name in ("plasticity_env/controllers/base.py", "plasticity_env/agents/es.py", "plasticity_env/data/text.py"):
        (error,) = [line for line in found.stdout.splitlines() if line.startswith(f"{name}:") and "no_such_arg" in line]
        assert error.endswith("[call-arg]")


@pytest.mark.parametrize("name", ["controllers", "agents"])
def test_the_old_import_names_say_the_new_ones(name: str) -> None:
    found = python(f"import {name}", ROOT)
    assert found.returncode == 1
    assert f"ImportError: {name} is imported as plasticity_env.{name}" in found.stderr


@pytest.mark.slow
def test_wheel_and_sdist_hold_one_package_and_all_its_files(copy: Path, tmp_path: Path) -> None:
    """Slow: the package is built twice."""
    builds = "from setuptools import build_meta; build_meta.build_sdist('dist'); build_meta.build_wheel('dist')"
    shutil.copytree(copy, tmp_path / "checkout", symlinks=True)
    for folder in (tmp_path / "checkout", tmp_path / "sdist"):
        built = python(builds, folder)  # the second from what the first packed
        assert built.returncode == 0, built.stderr
        (wheel,), (sdist,) = folder.glob("dist/*.whl"), folder.glob("dist/*.tar.gz")
        packed = set(zipfile.ZipFile(wheel).namelist())
        assert {name.split("/")[0].removesuffix(".dist-info") for name in packed} == {
            "plasticity_env",
            "-".join(wheel.stem.split("-")[:2]),
        }
        assert {name for name in packed if name.startswith("plasticity_env/")} == _package_files()
        assert any(name.endswith(".dist-info/licenses/NOTICE") for name in packed)
        with tarfile.open(sdist) as archive:
            assert f"{sdist.name.removesuffix('.tar.gz')}/NOTICE" in archive.getnames()
            archive.extractall(tmp_path, filter="data")
        if folder.name == "checkout":
            (tmp_path / sdist.name.removesuffix(".tar.gz")).rename(tmp_path / "sdist")


def _package_files() -> set[str]:
    """All files of the checkout's package, those behind its links included, but for notes beside the code."""
    found = set()
    for top, folders, names in os.walk(ROOT / "plasticity_env", followlinks=True):
        folders[:] = [folder for folder in folders if folder != "__pycache__"]
        found |= {(Path(top) / name).relative_to(ROOT).as_posix() for name in names}
    data = ("plasticity_env/zoo/", "plasticity_env/controllers/pretrained/")
    return {name for name in found if not name.endswith(".md") or name.startswith(data)}

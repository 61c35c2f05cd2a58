"""What a user who installs the wheel gets: the command, the types, the README's example, beside a package that was in the way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TYPED = """
import plasticity_env
from plasticity_env.envs.heads import HeadsEnv

env: HeadsEnv = plasticity_env.make_env(model_name="bard-gpt2-4x4", horizon=2)
observation, info = env.reset(seed=0)
loss: float = env.evaluate("test", blocks=2)
"""


def call(*words: str | Path, folder: Path) -> str:
    """What a command prints, in a folder and without this checkout on the path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an empty environment into which the wheel is installed, and openai-agents, whose package is `agents`."""
    place = tmp_path_factory.mktemp("wheel")
    source, unwanted = place / "source", shutil.ignore_patterns(".*", "build", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=unwanted)
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place, source, folder=place)
    (wheel,) = place.glob("*.whl")
    call(sys.executable, "-m", "venv", place / "empty", folder=place)
    python = place / "empty" / "bin" / "python"
    constraints = ("--constraint", ROOT / "constraints.txt")
    call(python, "-m", "pip", "install", "--quiet", *constraints, wheel, "mypy", folder=place)
    call(python, "-m", "pip", "install", "--quiet", *constraints, "openai-agents", folder=place)
    return python


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_is_a_tool_of_its_own(installed: Path, tmp_path: Path) -> None:
    """Slow: an environment is made from nothing and torch is installed into it."""
    assert "agents.agent.Agent" in call(
        installed, "-c", "import agents; print(agents.__file__, agents.Agent)", folder=tmp_path
    )
    command = installed.parent / "plasticity"
    assert "embedded models: bard-gpt2-4x4" in call(command, "doctor", folder=tmp_path)
    small = ["--horizon", "1", "--max_length", "32", "--calibration_blocks", "2", "--reward_blocks", "2"]
    assert "test perplexity" in call(command, "play", *small, "--test_blocks", "2", folder=tmp_path)
    assert not list(tmp_path.iterdir())
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example
    assert call(installed, "-c", example[1], folder=tmp_path)
    (tmp_path / "typed.py").write_text(TYPED, encoding="utf-8")
    (tmp_path / "shown.py").write_text(example[1], encoding="utf-8")
    call(installed, "-m", "mypy", "--strict", "typed.py", "shown.py", folder=tmp_path)
    files = call(installed, "-m", "pip", "show", "--files", "plasticity-env", folder=tmp_path)
    assert "NOTICE" in files
    assert "plasticity_env/py.typed" in files

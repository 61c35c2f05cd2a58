"""Opening the package: what it loads, and that all that importing does is still done, in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import plasticity_env
from plasticity_env.__main__ import main
from plasticity_env.agents.commands.command_table import command_names, find_command, says
from plasticity_env.common import arguments
from plasticity_env.controllers.catalogue import names
from plasticity_env.model.embedded import embedded_models
from tests.conftest import SMALL

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "datasets", "wandb", "matplotlib", "stable_baselines3")
SLOW_TO_PARSE = "typeguard"  # what the parser loads for tuples, an eighth of what --help costs
PREFIXED = "plasticity_env:plasticity/Heads-v1"


def fresh(code: str, folder: Path | None = None) -> str:
    """What code prints in a new process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_registers_the_ids_and_loads_nothing_heavy():
    code = f"""
import sys, gymnasium, plasticity_env
print(sorted(name for name in gymnasium.registry if name.startswith("plasticity/")))
print([name for name in {HEAVY} if name in sys.modules])
"""
    kinds = ("HeadEdit", "HeadRank", "Heads")
    flat = [f"plasticity/Flat{kind}-v1" for kind in kinds]
    whole = [f"plasticity/{kind}-v{version}" for kind in kinds for version in (0, 1)]
    others = [f"plasticity/{name}-v0" for name in ("FlatLevels", "FlatRoute", "Levels", "Route", "Stream")]
    assert fresh(code) == f"{sorted(flat + whole + others)}\n[]"


def test_no_folder_loads_anything_heavy_before_one_of_its_names_is_used():
    """Each package is imported for itself, and its names are listed without being loaded."""
    root = Path(plasticity_env.__file__).parent
    files = [
        *root.rglob("__init__.py"),
        *(root / "agents").rglob("__init__.py"),
        *(root / "controllers").rglob("__init__.py"),
    ]
    packages = sorted({".".join(file.parent.relative_to(root.parent).parts) for file in files})
    assert {"plasticity_env.repair", "plasticity_env.controllers.planners", "plasticity_env.agents.ppo"} <= set(
        packages
    )
    code = f"""
import sys, importlib
for name in {packages}:
    dir(importlib.import_module(name))
    assert not [each for each in {HEAVY} if each in sys.modules], name
print("ok")
"""
    assert fresh(code) == "ok"


def test_no_help_loads_anything_heavy():
    code = f"""
import sys, io
from contextlib import redirect_stdout
from plasticity_env.__main__ import main
from plasticity_env.agents.commands.command_table import command_names
for name in sorted(command_names(), key=lambda name: name in ("bank", "es", "record", "watch")):  # tuples come last
    page = io.StringIO()
    try:
        with redirect_stdout(page):
            main([name, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
    assert "usage: plasticity " + name in page.getvalue(), name
    assert name in ("bank", "es", "record", "watch") or {SLOW_TO_PARSE!r} not in sys.modules, name
    assert not [each for each in {HEAVY} if each in sys.modules], name
print("ok")
"""
    assert fresh(code) == "ok"


def test_the_overview_lists_every_command_with_what_it_is(capsys):
    main(["--help"])
    page = capsys.readouterr().out
    assert len(command_names()) >= 20
    for name in command_names():
        assert says(name)
        assert f"  {name} " in page
        assert find_command(name).name == name


def test_a_command_that_there_is_not_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["trian"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown command 'trian' (did you mean 'train'?)")


@pytest.mark.parametrize("words", [["--tyro-print-completion", "bash"], ["--tyro-print-completion=zsh"]])
def test_a_shell_completes_commands_and_flags(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code in (0, None)
    script = capsys.readouterr().out
    for word in (*command_names(), "calibration_blocks", "pruning_strategy"):
        assert word in script


@pytest.mark.parametrize("words", [["tcsh"], [], ["bash", "train"]])
def test_a_shell_that_there_is_no_completion_for_is_one_sentence(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--tyro-print-completion", *words])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: unknown shell '{' '.join(words)}'")


@pytest.mark.parametrize("name", command_names())
def test_defaults_that_are_not_checked_would_pass(name, monkeypatch):
    """Names that equal a default are not looked up, so that help is fast; here they are."""
    command = find_command(name)
    for module in [module for module in sys.modules.values() if getattr(module, "given", None) is arguments.given]:
        monkeypatch.setattr(module, "given", lambda instance, *names: True)
    command.arguments()


@pytest.fixture(scope="module")
def compact_folder(tmp_path_factory):
    model = plasticity_env.load_model("bard-gpt2-4x4").model
    mask = model.active.new_zeros(model.shape)
    mask[0, 1] = True
    model.prune(mask)
    folder = tmp_path_factory.mktemp("compact")
    model.compact().save_pretrained(folder)
    return folder


def test_auto_classes_load_compact_folders_when_they_were_imported_first(compact_folder):
    """The other order is in tests/plasticity_env/model/test_compact.py."""
    code = f"""from transformers import AutoModelForCausalLM, AutoConfig
import plasticity_env
folder = {str(compact_folder)!r}
print(AutoConfig.from_pretrained(folder).kept_heads[0], type(AutoModelForCausalLM.from_pretrained(folder)).__name__)
"""
    assert fresh(code) == "[0, 2, 3] CompactGPT2LMHeadModel"


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("order", ["import plasticity_env, torch", "import plasticity_env"])
def test_a_forked_process_has_one_thread_whenever_torch_is_imported(order):
    code = f"""
import os
{order}
read, write = os.pipe()
if os.fork() == 0:
    import torch
    os.write(write, str(torch.get_num_threads()).encode())
    os._exit(0)
os.wait()
print(os.read(read, 9).decode())
"""
    assert fresh(code) == "1"


def _prefixed() -> gym.Env[Any, Any]:
    return gym.make(PREFIXED, **SMALL)


@pytest.mark.slow
def test_the_module_prefix_makes_an_environment_without_an_import(tmp_path):
    """Slow: a new process imports torch and transformers."""
    code = f"import gymnasium; print(gymnasium.make({PREFIXED!r}, **{SMALL!r}).unwrapped.spec.id)"
    assert fresh(code, tmp_path).splitlines()[-1] == "plasticity/Heads-v1"


@pytest.mark.slow
def test_spawned_workers_of_every_kind_find_the_prefixed_id():
    """Slow: each worker is a new process that imports torch and transformers."""
    vector = gym.vector.AsyncVectorEnv([_prefixed], context="spawn")
    expected = _prefixed().reset(seed=3)[0]["heads"]
    try:
        np.testing.assert_allclose(vector.reset(seed=3)[0]["heads"][0], expected, rtol=1e-4, atol=1e-5)
    finally:
        vector.close()
    from stable_baselines3.common.vec_env import SubprocVecEnv

    subproc = SubprocVecEnv([_prefixed], start_method="spawn")
    try:
        subproc.seed(3)
        seen = subproc.reset()
        np.testing.assert_allclose(seen["heads"][0], expected, rtol=1e-4, atol=1e-5)
    finally:
        subproc.close()


@pytest.mark.slow
def test_ray_workers_find_the_prefixed_id():
    """Slow: Ray starts, and its worker imports torch and transformers."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'plasticity-env[ray]'")

    @ray.remote
    def first() -> float:
        import gymnasium

        return float(gymnasium.make(PREFIXED, **SMALL).reset(seed=3)[1]["loss"])

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        assert ray.get(first.remote()) == pytest.approx(_prefixed().reset(seed=3)[1]["loss"], rel=1e-4)
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_rllib_workers_find_the_prefixed_id():
    """Slow: Ray starts, and its worker imports torch and transformers."""
    pytest.importorskip("ray.rllib", reason="Ray's RLlib is not installed: pip install 'plasticity-env[ray]'")
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        config = PPOConfig().environment(PREFIXED, env_config={**SMALL, "observation": "flat"})
        algorithm = config.env_runners(num_env_runners=1).build_algo()
        try:
            ids = algorithm.env_runner_group.foreach_env_runner(
                lambda runner: (runner.worker_index, runner.env.unwrapped.envs[0].unwrapped.env_id),
                local_env_runner=False,
            )
            assert ids == [(1, "plasticity/Heads-v1")]
        finally:
            algorithm.stop()
    finally:
        ray.shutdown()


def test_the_typed_door_is_the_environment_itself():
    env = plasticity_env.make_env(**SMALL)
    assert type(env).__name__ == "HeadsEnv"
    assert type(plasticity_env.make_env("plasticity/HeadRank-v1", **SMALL)).__name__ == "HeadRankEnv"
    theirs = gym.make("plasticity/Heads-v1", **SMALL)
    mine, other = env.reset(seed=0)[0], theirs.reset(seed=0)[0]
    assert all(np.array_equal(mine[name], other[name]) for name in other)


def test_doctor_names_what_there_is(capsys):
    main(["doctor"])
    said = capsys.readouterr().out
    for part in ("torch 2", "devices: cpu", "plasticity/Heads-v1", *embedded_models(), "extras: rl (there)", "Biases"):
        assert part in said


def test_the_doors_name_what_they_promise():
    assert set(plasticity_env.__all__) <= set(dir(plasticity_env))
    assert all(getattr(plasticity_env, name) is not None for name in plasticity_env.__all__)
    assert "ann" in names()
    assert (ROOT / "plasticity_env" / "py.typed").is_file()

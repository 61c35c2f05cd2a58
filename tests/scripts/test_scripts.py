"""The command lines as a user types them: files written, bad input answered in one sentence with exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plasticity_env.common.digests import write_manifest

ROOT = Path(__file__).parents[2]
FAST = ["--max_length", "32", "--calibration_blocks", "4"]


def run(script, *arguments, cwd, env=None):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(env or {})}
    environment.pop("WANDB_API_KEY", None)
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )


SMALL = ["--reward_blocks", "4", "--envs_per_model", "2", "--num_steps", "4", "--num_minibatches", "2", *FAST]
TRAIN = ["train_controller.py", "--total_timesteps", "16", *SMALL]


def test_train_then_evaluate_then_play(tmp_path, run_here):
    """The first in a process of its own: importing all that it needs takes most of the time."""
    done = run(*TRAIN, "--track", "--output_dir", "run", "--seed", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr  # piped output stays plain
    assert "wandb sync --id" in done.stdout + done.stderr
    folder = tmp_path / "run"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["global_step"] == 16
    assert "seed: 3" in (folder / "config.yaml").read_text()
    for name in ("controller/controller.safetensors", "checkpoint.pt", "config.yaml"):
        assert (folder / name).stat().st_size > 0
    assert list(folder.glob("tensorboard/events*"))
    assert list(folder.glob("wandb/offline-run-*"))

    done = run_here(
        "evaluate_controllers.py",
        *["--controllers", "keep_all,random,plasticity,run/controller", "--sparsities", "0.25,0.5", "--seeds", "2"],
        *["--flop_prices", "2", "--repair", "none,least_squares", "--test_blocks", "4", "--output_dir", "eval", *FAST],
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    for row in results["rows"]:
        assert len(row["active"]) == 4
        assert row["active_heads"] == sum(map(sum, row["active"]))
        if row["controller"] == "keep_all":
            assert row["delta_nll"] == 0
        if row["controller"] == "random":
            assert row["active_heads"] == 16 - round(16 * row["sparsity"])
    assert (tmp_path / "eval" / "frontier.png").stat().st_size > 10_000
    assert "plasticity" in (tmp_path / "eval" / "table.txt").read_text()

    done = run_here(
        "play_episode.py",
        *["--controller", "run/controller", "--reward_blocks", "4", "--test_blocks", "2", "--record", "e.json", *FAST],
    )
    assert done.returncode == 0, done.stderr
    assert "test perplexity" in done.stdout
    assert json.loads((tmp_path / "e.json").read_text())["env_id"] == "plasticity/Heads-v1"


@pytest.mark.parametrize("agent", ["sb3_ppo", "sb3_maskable_ppo"])
def test_stable_baselines3_trains_from_the_same_script(tmp_path, agent, run_here):
    """Slow: Stable-Baselines3 is imported, and trains."""
    done = run_here(*TRAIN, "--agent", agent, "--output_dir", "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "controller" / "controller.json").exists()


def test_a_yaml_file_gives_defaults_and_flags_override(tmp_path, run_here):
    (tmp_path / "c.yaml").write_text("total_timesteps: 8\nnum_steps: 4\nenvs_per_model: 1\nlearning_rate: 0.01\n")
    done = run_here(
        "train_controller.py",
        *["--config", "c.yaml", "--output_dir", "run", "--learning_rate", "0.02", "--reward_blocks", "4", *FAST],
        *["--num_minibatches", "1"],
    )
    assert done.returncode == 0, done.stderr
    resolved = (tmp_path / "run" / "config.yaml").read_text()
    assert "total_timesteps: 8" in resolved
    assert "learning_rate: 0.02" in resolved


def test_a_stopped_training_resumes(tmp_path, run_here):
    assert run_here(*TRAIN, "--output_dir", "run", "--checkpoint_every", "1").returncode == 0
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    done = run_here(*TRAIN, "--output_dir", "run", "--checkpoint_every", "1", "--resume")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() == rows  # it was done already


def test_a_finished_run_is_not_overwritten(tmp_path, run_here):
    assert run_here(*TRAIN, "--output_dir", "run").returncode == 0
    before = (tmp_path / "run" / "config.yaml").read_text()
    for more, message in (
        (["--horizon", "2"], "holds a run already"),
        (["--agent", "sb3_ppo"], "holds a run already"),
        (["--resume", "--learning_rate", "0.5"], "was trained with learning_rate"),
    ):
        done = run_here(*TRAIN, "--output_dir", "run", *more)
        assert done.returncode == 2
        assert message in done.stderr
        assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_a_run_that_was_cut_before_its_first_row_is_begun_again(tmp_path, run_here):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    done = run_here(*TRAIN, "--output_dir", "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "controller" / "controller.json").is_file()


def test_a_checkpoint_of_another_shape_is_refused(tmp_path, run_here):
    assert run_here(*TRAIN, "--output_dir", "run").returncode == 0
    path = tmp_path / "run" / "controller" / "controller.json"
    path.write_text(path.read_text().replace('"width": 64', '"width": 32'))
    write_manifest(path.parent, path.name)
    done = run_here("evaluate_controllers.py", "--controllers", "run/controller", *FAST)
    assert done.returncode == 2
    assert "shape" in done.stderr


@pytest.mark.parametrize(
    "script", ["train_controller.py", "evaluate_controllers.py", "benchmark.py", "play_episode.py", "demo.py"]
)
def test_help_reads(run_here, script):
    code, output, _ = run_here(script, "--help")
    assert code == 0
    assert "usage" in output


def test_the_benchmark_prints_one_json_line_a_row(tmp_path, run_here):
    done = run_here(
        "benchmark.py",
        *["step", "--models", "bard-gpt2-4x4", "--lengths", "32,64", "--tokens", "128", "--rounds", "1"],
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    wanted = {"bench", "model", "seq_len", "step_s", "floor_s", "naive_s", "step_over_floor", "naive_over_step"}
    assert all(wanted <= set(row) for row in rows)
    seen = [(row["seq_len"], row["repair"], row["obs"], row["crossfit"]) for row in rows]
    kinds = [("none", False, False), ("least_squares", True, False), ("least_squares", True, True)]
    assert seen == [(length, *kind) for length in (32, 64) for kind in kinds]


@pytest.mark.slow
def test_the_quick_demo_writes_its_page(tmp_path):
    """Slow: trains and compares controllers in a process of its own, for about a minute."""
    done = run("demo.py", "--config", str(ROOT / "scripts/configs/demo_quick.yaml"), "--folder", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "demo" / "dashboard.html").read_text()
    assert "bard-gpt2-4x4" in page
    assert "plotly" in page

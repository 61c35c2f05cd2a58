"""What goes with a release: the workflow's own checks, and the entry in Gymnasium's list."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


@pytest.mark.parametrize(("tag", "fits"), [(f"v{VERSION}", True), (VERSION, False), (f"v{VERSION}.post9", False)])
def test_a_tag_that_is_not_the_version_is_refused(tag: str, fits: bool) -> None:
    (check,) = (step["run"] for step in WORKFLOW["jobs"]["build"]["steps"] if "tag" in step.get("name", ""))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    there = {**os.environ, "GITHUB_REF_NAME": tag, "PATH": path}
    done = subprocess.run(["bash", "-ec", check], cwd=ROOT, env=there, capture_output=True, text=True)
    assert (done.returncode == 0) == fits, done.stderr
    assert fits or f"pyproject.toml says {VERSION}" in done.stderr


def test_nothing_is_published_before_all_checks_ran() -> None:
    jobs = WORKFLOW["jobs"]
    runs = [step.get("run", "") for step in jobs["build"]["steps"]]
    assert any(".ci/run" in run for run in runs)
    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "build": None,
        "publish": "build",
        "site": "build",
    }
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_the_entry_names_the_gymnasium_that_the_tests_run_on() -> None:
    entry = (ROOT / "docs/third_party_entry.md").read_text(encoding="utf-8")
    pinned = re.search(r"^gymnasium==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert f"badge/Gymnasium-v{pinned[1]}-blue" in entry


def test_the_cluster_jobs_are_well_formed_and_play_a_known_command() -> None:
    folder = ROOT / "scripts/configs/cluster"
    subprocess.run(["bash", "-n", folder / "slurm_ray.sh"], check=True)
    job = yaml.safe_load((folder / "kuberay.yaml").read_text(encoding="utf-8"))
    cluster = job["spec"]["rayClusterSpec"]
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]
    assert len(cluster["workerGroupSpecs"]) == 1
    lines = [job["spec"]["entrypoint"], (folder / "slurm_ray.sh").read_text(encoding="utf-8")]
    for line in lines:
        words = line[line.index("plasticity leaderboard") :].replace("\\\n", " ").split("\n")[0].split()
        assert words[:2] == ["plasticity", "leaderboard"]
        assert {word for word in words if word.startswith("--")} <= {"--ray_address", "--workers", "--output"}

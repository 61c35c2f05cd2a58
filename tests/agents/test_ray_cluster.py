"""Several nodes: a simulated cluster of Ray's on this machine, each node with a scheduler and an object store of its own.

Slow: each test starts four nodes, and worker processes that import torch.
"""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from plasticity_env import controllers
from plasticity_env.__main__ import main
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.rllib.ray_session import ray_session
from plasticity_env.agents.rllib.ray_tasks import map_tasks
from tests.agents import ray_functions
from tests.conftest import SMALL

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
pytestmark = pytest.mark.slow
BLOCKS = ("--max_length", "32", "--calibration_blocks", "4", "--test_blocks", "4")
BOARD = (
    *(
        "leaderboard",
        "--models",
        "bard-gpt2-4x4",
        "--players",
        "fisher@2,random@1",
        "--shares",
        "0.2,0.5",
        "--seeds",
        "2",
    ),
    *(*BLOCKS, "--reward_blocks", "4"),
)
GRID = ("grid", "--quick_test", "--max_length", "32", "--calibration_blocks", "2")
PPO = PPOConfig(total_timesteps=10_000, num_steps=6, num_minibatches=2, update_epochs=1)


class Nodes:
    """A head node without cores for work, and worker nodes with a core each."""

    def __init__(self, workers: int) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self._workers = [self._cluster.add_node(num_cpus=1) for _ in range(workers)]
        self.address: str = self._cluster.address

    def kill(self, node_id: str) -> None:
        """End a worker node and all of its processes at once, as when the machine is lost."""
        node = next(each for each in self._workers if each.node_id == node_id)
        self._workers.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def any_worker(self) -> str:
        return str(self._workers[0].node_id)

    def end(self) -> None:
        self._cluster.shutdown()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # a note in a place that all of this machine share would let other programs join these nodes
    monkeypatch.setattr("ray._private.utils.write_ray_address", lambda address, temp_dir=None: None)
    monkeypatch.setattr("ray._common.utils.reset_ray_address", lambda temp_dir=None: None)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    found = Nodes(3)
    yield found
    found.end()


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is put into the object store by this process, as it comes."""
    found: list[Any] = []
    real = ray.put

    def counting(value: Any, **options: Any) -> Any:
        found.append(real(value, **options))
        return found[-1]

    monkeypatch.setattr(ray, "put", counting)
    return found


def copies(reference: Any) -> list[str]:
    """The nodes that hold a copy of an object."""
    from ray.experimental import get_object_locations

    return list(get_object_locations([reference])[reference]["node_ids"])


def rows(path: Path, *without: str) -> list[str]:
    """The lines of a file in an order of their own, without what differs from run to run."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(json.dumps({k: v for k, v in row.items() if k not in without}, sort_keys=True) for row in found)


@contextmanager
def once(ready: Callable[[], bool], then: Callable[[], None]) -> Iterator[None]:
    """While the block runs, another thread does something as soon as something is so; if that never is, it does nothing."""
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            if ready():
                then()
                return
            over.wait(0.05)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_what_is_shared_is_put_once_and_copied_once_a_node(nodes: Nodes, puts: list[Any]) -> None:
    """Slow: three nodes, and a worker process on each."""
    shared = np.ones(100_000)
    with ray_session(nodes.address, 3):
        found = dict(map_tasks(ray_functions.where, range(12), address=nodes.address, workers=3, shared=shared))
        assert len(found) == 12
        used = {node for node, _ in found.values()}
        assert len(used) == 3
        assert all(in_store for _, in_store in found.values())
        assert len(puts) == 1
        there = copies(puts[0])
        assert len(there) == len(set(there))
        assert used <= set(there)
        assert len(there) <= 4, "one a node, the driver's included"


def test_a_node_that_is_killed_costs_no_item(nodes: Nodes) -> None:
    """Slow: three nodes, one of which is killed while items are at work."""
    came: list[int] = []
    with ray_session(nodes.address, 3):
        with once(lambda: len(came) >= 2, lambda: nodes.kill(nodes.any_worker())):
            for item, result in map_tasks(ray_functions.slow_square, range(12), address=nodes.address, workers=3):
                came.append(item)
                assert result == item * item
        assert sorted(came) == list(range(12))
        deadline = time.monotonic() + 60  # it takes Ray a while to call it dead
        while sum(node["Alive"] for node in ray.nodes()) > 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert sum(node["Alive"] for node in ray.nodes()) == 3


@pytest.mark.parametrize(
    ("command", "file", "differs"),
    [
        (BOARD, "cells.jsonl", ("seconds", "machine", "check")),
        (GRID, "cells.jsonl", ("seconds", "check")),
    ],
    ids=["leaderboard", "grid"],
)
def test_cells_of_a_cluster_are_those_of_one_process(command, file, differs, nodes, puts, tmp_path, monkeypatch):
    """Slow: a board and a grid twice, the second time on three nodes, one of which is killed after the first cell."""
    monkeypatch.chdir(tmp_path)
    output = "--output" if command is BOARD else "--output_dir"

    def place(name: str) -> str:
        return f"{name}/{file}" if command is BOARD else name

    main([*command, output, place("here")])
    path = tmp_path / "there" / file
    done_then: list[int] = []

    def kill() -> None:
        done_then.append(len(path.read_text().splitlines()))
        nodes.kill(nodes.any_worker())

    with once(lambda: path.exists() and path.stat().st_size > 0, kill):
        main([*command, output, place("there"), "--ray_address", nodes.address, "--workers", "3"])
    assert rows(path, *differs) == rows(tmp_path / "here" / file, *differs)
    assert 0 < done_then[0] < len(rows(path)), "it was killed half-way"
    assert len(puts) == 1, "one model and its text"


def test_rllib_learns_over_nodes_and_goes_on_without_one(nodes, puts, small_text, tmp_path):
    """Slow: env runners on two of three nodes load a model each; the node of one is killed, and it comes back on the third."""
    from plasticity_env.agents.rllib.rllib import RLlibPPO

    envs = [
        gym.make("plasticity/Heads-v1", **SMALL, obs_signal=False, residual_signal=False, text=small_text) for _ in "ab"
    ]
    ppo = RLlibPPO(envs, PPO, runners=2, address=nodes.address, folder=tmp_path)
    with ppo.algorithm() as algorithm:
        on_runners = functools.partial(algorithm.env_runner_group.foreach_env_runner, local_env_runner=False)
        ppo.iterate(algorithm)
        homes = dict(on_runners(_home))
        assert len(set(homes.values())) == 2
        assert len(copies(puts[0])) <= 3, "one a node that reads it, the driver's included"
        nodes.kill(homes[1])
        started, before = time.monotonic(), ppo.global_step
        while algorithm.env_runner_group.num_healthy_remote_workers() < 2 or ppo.global_step < before + 24:
            assert time.monotonic() - started < 250, "the runner of the killed node did not come back"
            assert np.isfinite(ppo.iterate(algorithm)["loss/policy"])
        again = dict(on_runners(_home))
        assert again[2] == homes[2]
        assert again[1] not in homes.values()
    observation, _ = envs[0].reset(seed=0)
    assert envs[0].action_space.contains(controllers.load(tmp_path / "controller").act(observation))


def _home(runner: Any) -> tuple[int, str]:
    return runner.worker_index, ray.get_runtime_context().get_node_id()

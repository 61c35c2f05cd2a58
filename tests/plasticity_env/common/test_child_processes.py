"""Processes that work for this one: a death is one sentence that names the process, and none stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import psutil
import pytest

from plasticity_env.common.child_processes import deaths_named, worker_pool
from plasticity_env.common.errors import InputError


def dies(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_worker_of_a_pool_is_named() -> None:
    with (
        pytest.raises(
            InputError, match=r"worker process \d+ was ended by SIGKILL: what was finished is kept; run the same"
        ),
        worker_pool(1) as pool,
    ):
        pool.submit(dies, 1).result()


def test_a_pool_that_is_left_by_an_error_does_not_wait_for_its_work() -> None:
    workers: list[psutil.Process] = []

    def stopped() -> None:
        with worker_pool(1) as pool:
            workers.append(psutil.Process(pool.submit(os.getpid).result()))
            pool.submit(time.sleep, 10_000)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not workers[0].is_running()


ORPHANS = """
import os, sys, time
from plasticity_env.common.child_processes import worker_pool
if __name__ == "__main__":
    with worker_pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 200)
        sys.stdin.read()
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    parent = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    psutil.wait_procs([worker], timeout=60)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


DAEMONS = """
import multiprocessing, os, sys, time
from plasticity_env.common.child_processes import daemon_ends_with_parent

def work(pipe):
    daemon_ends_with_parent()
    daemon_ends_with_parent()
    pipe.send(os.getpid())
    time.sleep(10_000)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    for _ in range(2):
        mine, theirs = context.Pipe()
        context.Process(target=work, args=(theirs,), daemon=True).start()
        print(mine.recv(), flush=True)
    sys.stdin.read()
"""
ENVIRONMENTS = """
import sys
import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv
import plasticity_env

def make():
    return gym.make("plasticity/Heads-v1", model_name="bard-gpt2-4x4", max_length=32, calibration_blocks=2, reward_blocks=2)

if __name__ == "__main__":
    envs = SubprocVecEnv([make] * 2, start_method=sys.argv[1])
    envs.get_attr("settings")
    print(*(process.pid for process in envs.processes), sep="\\n", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("program", "start"),
    [(DAEMONS, "fork"), (DAEMONS, "spawn"), pytest.param(ENVIRONMENTS, "fork", marks=pytest.mark.slow)],
)
def test_daemons_end_with_a_parent_that_is_killed(program, start, tmp_path) -> None:
    """The last is slow: its parent imports torch, and each of its workers loads a model."""
    script = tmp_path / "parent.py"
    script.write_text(program)
    line = [sys.executable, str(script), start]
    parent = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
    parent.kill()
    parent.wait()
    psutil.wait_procs(workers, timeout=60)
    left = [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    for worker in left:
        worker.kill()
    assert not left


def _kill_and_step(envs, victim: int, actions) -> None:
    os.kill(victim, signal.SIGKILL)
    for _ in range(3):
        envs.step(actions)


def test_a_killed_environment_of_gymnasium_is_named_and_nobody_waits_for_it() -> None:
    envs = gym.vector.AsyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2)
    envs.reset(seed=0)
    with deaths_named(envs.processes):
        envs.step(envs.action_space.sample())
    victim = envs.processes[1].pid
    with pytest.raises(InputError, match=f"worker process {victim} was ended by SIGKILL"), deaths_named(envs.processes):
        _kill_and_step(envs, victim, envs.action_space.sample())
    envs.closed = True  # its close() would wait for the answers, and say so once more when it is collected


def test_a_killed_environment_of_stable_baselines3_is_named() -> None:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    envs = SubprocVecEnv([lambda: gym.make("CartPole-v1")] * 2, start_method="fork")
    envs.reset()
    victim = envs.processes[0].pid
    with pytest.raises(InputError, match=f"worker process {victim} was ended by SIGKILL"), deaths_named(envs.processes):
        _kill_and_step(envs, victim, [0, 0])


def test_an_error_of_another_kind_goes_on() -> None:
    with pytest.raises(ZeroDivisionError), deaths_named([]):
        _ = 1 / 0

"""Ray: the same network under RLlib, fault tolerance, tasks, and addresses that do not answer."""

from __future__ import annotations

import functools
import os
import signal
import socket
import time
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch

from plasticity_env import InputError, controllers
from plasticity_env.agents.ppo.padding import environment_action
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.rllib.ray_deaths import absent, death
from plasticity_env.agents.rllib.ray_session import check_address, ray_session
from plasticity_env.agents.rllib.ray_tasks import map_tasks
from plasticity_env.agents.sb3.sb3 import PadHeads
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.agents.training.train_run import train
from tests.agents import ray_functions
from tests.conftest import SMALL, filled

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
CONFIG = PPOConfig(total_timesteps=24, num_steps=6, num_minibatches=2, update_epochs=1)
LONG = PPOConfig(total_timesteps=10_000, num_steps=6, num_minibatches=2, update_epochs=1)
METRICS = {
    *("episode/return", "episode/ppl", "episode/flops_kept", "episode/active_share", "episode/invalid_actions"),
    *("loss/policy", "loss/value", "loss/entropy", "loss/explained_variance", "train/learning_rate", "time/sps"),
}
IDS = ("plasticity/Heads-v1", "plasticity/HeadEdit-v1", "plasticity/HeadRank-v1")


@pytest.fixture(scope="module")
def session():
    with ray_session("local", 2) as connected:
        yield connected
    assert not [child for child in psutil.Process().children(recursive=True) if "ray" in child.name()]


@pytest.fixture
def make(small_text):
    def build(env_id="plasticity/Heads-v1", **kwargs):
        text = {} if "model_name" in kwargs else {"text": small_text}
        return gym.make(env_id, **{**SMALL, "obs_signal": False, "residual_signal": False, **text, **kwargs})

    return build


def trained(envs, folder=None, config=CONFIG, **kwargs):
    """An RLlib PPO after its training, the metrics that it reported, and the controller."""
    from plasticity_env.agents.rllib.rllib import RLlibPPO

    seen = []
    ppo = RLlibPPO(envs, config, folder=folder, callback=lambda step, metrics: seen.append((step, metrics)), **kwargs)
    before = {key: value.clone() for key, value in ppo.network.state_dict().items()}
    controller = ppo.train()
    assert any(not torch.equal(before[key], value) for key, value in controller.network.state_dict().items())
    return ppo, seen, controller


@pytest.mark.slow
@pytest.mark.parametrize("env_id", IDS)
def test_training_in_this_process_on_two_models(session, make, env_id, tmp_path):
    """Slow: a Ray session, and a training of two updates for each id."""
    envs = [make(env_id), make(env_id, model_name="bard-llama-4x8")]
    _, seen, _ = trained(envs, tmp_path)
    steps = np.diff([0, *(step for step, _ in seen)])
    assert len(steps) == 2
    # RLlib takes whole steps of both environments; one that only begins an episode does not count, so there may be one more
    assert all(12 <= step <= 13 for step in steps)
    assert all(metrics.keys() == METRICS for _, metrics in seen)
    assert seen[-1][1]["train/learning_rate"] == pytest.approx(0.0, abs=1e-9)
    controller = controllers.load(tmp_path / "controller")
    for env in envs:  # one checkpoint for models of any size
        observation, _ = env.reset(seed=0)
        assert env.action_space.contains(controller.act(observation))


@pytest.mark.slow
def test_two_runners_share_weights_and_training_goes_on_when_one_is_killed(session, make):
    """Slow: two runner processes import torch and load a model each, one of them twice."""
    from plasticity_env.agents.rllib.rllib import RLlibPPO

    with pytest.raises(InputError, match="num_env_runners 3 is more than the 2 cores of Ray"):
        RLlibPPO([make()], LONG, runners=3).train()
    ppo = RLlibPPO([make(), make(model_name="bard-llama-4x8")], LONG, runners=2)
    assert (ppo.envs_per_runner, ppo.batch) == (1, 12)
    with ppo.algorithm() as algorithm:
        on_runners = functools.partial(algorithm.env_runner_group.foreach_env_runner, local_env_runner=False)
        assert ppo.iterate(algorithm).keys() == METRICS
        assert ppo.global_step == 12
        found = {number: rest for number, *rest in on_runners(_look)}
        process = found[1][2]
        assert absent(algorithm) == ""
        assert {number: rest[:2] for number, rest in found.items()} == {
            1: ["bard-gpt2-4x4", True],
            2: ["bard-llama-4x8", True],
        }
        os.kill(process, signal.SIGKILL)
        for _ in range(2):  # with the one that is left
            before = ppo.global_step
            assert np.isfinite(ppo.iterate(algorithm)["loss/policy"])
            assert ppo.global_step > before
        started = time.monotonic()
        while algorithm.env_runner_group.num_healthy_remote_workers() < 2:
            assert time.monotonic() - started < 200, "the killed runner did not come back"
            ppo.iterate(algorithm)
        ppo.iterate(algorithm)
        again = {number: rest for number, *rest in on_runners(_look)}
    assert again.keys() == {1, 2}
    assert again[1][2] != process
    assert again[1][:2] == ["bard-gpt2-4x4", True]
    assert all(torch.equal(rest[3], ppo.network.value.weight) for rest in again.values())  # the new one learns along


def _look(runner):
    """Of a runner: number, model, whether its largest parameter lies in the object store, process, a weight of its network."""
    base = runner.env.unwrapped.envs[0].unwrapped
    context = runner.config.env_config
    packed = ray.get(context["packed"][context["specs"][runner.worker_index - 1].model])
    places = {array.ctypes.data for array, _ in packed.weights.values() if not array.flags.writeable}
    largest = max(base.workbench.model.parameters(), key=torch.Tensor.numel)
    weight = runner.module.network.value.weight.detach().clone()
    return runner.worker_index, base.workbench.name, largest.data_ptr() in places, os.getpid(), weight


@pytest.mark.slow
def test_a_run_resumes_from_its_folder(session, tmp_path):
    """Slow: two trainings through the command in a Ray session."""
    small = {"max_length": 32, "calibration_blocks": 4, "reward_blocks": 4, "envs_per_model": 1, "horizon": 3}
    small |= {"agent": "rllib_ppo", "output_dir": tmp_path / "run", "obs_signal": False, "residual_signal": False}
    with pytest.raises(InputError, match="no checkpoint in"):
        train(filled(TrainConfig, **small, ppo=CONFIG, resume=True))
    half = PPOConfig(**{**CONFIG.__dict__, "total_timesteps": 12})
    train(filled(TrainConfig, **small, ppo=half))
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["global_step"] == 12
    with pytest.raises(InputError, match="holds a run already"):
        train(filled(TrainConfig, **small, ppo=half))
    with pytest.raises(InputError, match="total_timesteps=12, not 24"):
        train(filled(TrainConfig, **small, ppo=CONFIG, resume=True))
    state["config"]["total_timesteps"] = 24
    torch.save(state, tmp_path / "run" / "checkpoint.pt")
    train(filled(TrainConfig, **small, ppo=CONFIG, resume=True))
    steps = [line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if '"loss/policy"' in line]
    assert len(steps) == 4
    assert controllers.load(tmp_path / "run" / "controller").info["global_step"] == 24


@pytest.mark.parametrize("env_id", IDS)
def test_the_module_decides_as_the_controller(make, env_id):
    """Likeliest action, mask and padding: RLlib's module against `ANNController`; padding adds no probability."""
    from ray.rllib.core.columns import Columns

    module, controller = _module(make(env_id), 20)
    env, padded = make(env_id), PadHeads(make(env_id), 20)
    observation, _ = env.reset(seed=0)
    wide, _ = padded.reset(seed=0)
    batch = {Columns.OBS: {name: torch.from_numpy(value)[None] for name, value in wide.items()}}
    inputs = module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
    kind = module.get_inference_action_dist_cls()
    likeliest = np.atleast_1d(kind.from_logits(inputs).to_deterministic().sample()[0].numpy())
    ours = controller.act(observation)
    if env_id.endswith("HeadRank-v1"):
        assert np.array_equal(np.argsort(likeliest[:16], kind="stable"), np.argsort(ours, kind="stable"))
    else:
        assert np.array_equal(environment_action(likeliest, 16, 20, env_id.endswith("HeadEdit-v1")), ours)
    narrow, _ = _module(make(env_id), 16)
    narrow.load_state_dict(module.state_dict())
    small, _ = PadHeads(make(env_id), 16).reset(seed=0)
    inputs16 = narrow.forward_inference({Columns.OBS: {n: torch.from_numpy(v)[None] for n, v in small.items()}})
    there = kind.from_logits(inputs16[Columns.ACTION_DIST_INPUTS])
    sample = there.sample()
    if env_id.endswith("HeadEdit-v1"):
        wider = torch.tensor([0 if int(sample) == 0 else 1 + (int(sample) - 1) // 16 * 20 + (int(sample) - 1) % 16])
    else:
        wider = torch.cat([sample, torch.zeros(1, 4, dtype=sample.dtype)], 1)
    constant = 0.0
    if env_id.endswith("HeadRank-v1"):  # four standard normals at 0, whatever was learned
        constant = float(torch.distributions.Normal(0.0, 1.0).log_prob(torch.zeros(4)).sum())
    assert float(kind.from_logits(inputs).logp(wider)) == pytest.approx(float(there.logp(sample)) + constant, abs=1e-4)


def _module(env, capacity):
    """A fresh module over an environment, and a controller with its network."""
    from plasticity_env.agents.rllib.rllib_module import HeadModule
    from plasticity_env.controllers import ANNController, NetworkConfig

    torch.manual_seed(0)
    padded = PadHeads(env, capacity)
    module = HeadModule(
        observation_space=padded.observation_space,
        action_space=padded.action_space,
        model_config={"network": NetworkConfig().to_json()},
    )
    return module, ANNController(module.network)


def test_choices_are_a_distribution():
    from plasticity_env.agents.rllib.rllib_module import HeadChoices

    logits = torch.randn(3, 5, 4)
    logits[0, 1, 2:] = -1e9
    other = torch.randn(3, 20)
    ours = HeadChoices.from_logits(logits.flatten(1))
    reference = torch.distributions.Categorical(logits=logits)
    value = torch.tensor([[0, 1, 2, 3, 0]]).expand(3, -1).clone()
    value[0, 1] = 0
    torch.testing.assert_close(ours.logp(value), reference.log_prob(value).sum(-1))
    torch.testing.assert_close(ours.entropy(), reference.entropy().sum(-1))
    theirs = torch.distributions.Categorical(logits=other.view(3, 5, 4))
    kl = torch.distributions.kl_divergence(reference, theirs).sum(-1)
    torch.testing.assert_close(ours.kl(HeadChoices.from_logits(other)), kl)
    draws = torch.stack([ours.sample() for _ in range(2000)])
    share = torch.stack([(draws == action).float().mean(0) for action in range(4)], -1)
    assert (share - reference.probs).abs().max() < 0.06
    assert share[0, 1, 2:].sum() == 0


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tasks_come_back_with_their_items(session, tmp_path):
    """Slow: Ray starts worker processes."""
    shared = np.ones(10_000)
    assert sorted(map_tasks(ray_functions.scaled, range(5), workers=2, shared=shared)) == [
        (i, 1e4 * i) for i in range(5)
    ]
    with pytest.raises(ValueError, match="two cannot be used"):
        list(map_tasks(ray_functions.fails, range(5), workers=2))
    assert list(map_tasks(ray_functions.dies_once, [(tmp_path, 7)], workers=2, retries=1)) == [((tmp_path, 7), 70)]
    came = []
    said = r"died \(.*task [0-9a-f]{16,}, call dies_at_two of 2, tries 1\): .*what was finished is kept.* fewer workers"
    with pytest.raises(InputError, match=said):
        came.extend(result for _, result in map_tasks(ray_functions.dies_at_two, [0, 1, 2], workers=1, retries=0))
    assert came == [0, 1]
    with pytest.raises(InputError, match="needs 999 GPU"):
        next(map_tasks(ray_functions.fails, [1], gpus=999.0))


def test_a_death_is_told_with_what_ray_knows_of_it():
    memory = ray.exceptions.OutOfMemoryError(
        "Task was killed due to the node running low on memory.\nMemory on the node (IP: 10.0.0.7, ID: 77aa) where the task "
        "(task ID: 0123456789abcdef01, name=play, pid=4711, memory used=3GB) was running was 15GB"
    )
    assert str(death(memory, "a process")).startswith(
        "a process died (task 0123456789abcdef01, process 4711, node 10.0.0.7): Task was killed due to the node"
    )
    actor = ray.exceptions.RayActorError("ab" * 16, "The actor died.")
    assert str(death(actor, "an env runner")).startswith(f"an env runner died (actor {'ab' * 16}): ")
    nothing = str(death(ray.exceptions.WorkerCrashedError(), "a process", task="12"))
    assert nothing.startswith("a process died (task 12): The worker died")
    assert nothing.endswith("run the same again, with fewer workers where memory ran out")


def test_runners_that_do_not_answer_are_named(monkeypatch, make):
    from plasticity_env.agents.rllib import rllib

    actors = {number: SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda: "c0ffee")) for number in (1, 2)}
    group = SimpleNamespace(healthy_worker_ids=lambda: [2], _worker_manager=SimpleNamespace(actors=lambda: actors))
    silent = SimpleNamespace(train=dict, env_runner_group=group)
    monkeypatch.setattr(rllib, "PATIENCE", -1.0)
    with pytest.raises(
        InputError, match=r"no env runner answered .*\(env runner 1 \(actor c0ffee\)\): check 'ray status'"
    ):
        rllib.RLlibPPO([make()], CONFIG).iterate(silent)


def test_no_worker_is_refused():
    with pytest.raises(InputError, match="workers must be at least 1, got 0"):
        next(map_tasks(ray_functions.fails, [1], workers=0))


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["nonsense", "host:port", "ray://127.0.0.1:10001", "127.0.0.1:99999", ""])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match="is not an address: use local"):
        check_address(address)


def test_an_address_that_does_not_answer_is_refused_within_seconds():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # listens, but is no head node
        port = silent.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(InputError, match=rf"no Ray head node answers at '127.0.0.1:{port}' within 1 seconds"):
            check_address(f"127.0.0.1:{port}", seconds=1)
        assert time.monotonic() - started < 60  # ray.init takes more than three minutes to give up
    with pytest.raises(InputError, match="no Ray head node answers"):
        check_address(f"127.0.0.1:{port}", seconds=1)
    assert check_address("local") == "local"


def test_auto_takes_the_address_of_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=r"answers at '[\d.]+:1'"):
        check_address("auto", seconds=1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_env_runners": 2}, "--num_env_runners is for --agent rllib_ppo, not ppo"),
        ({"ray_address": "auto", "agent": "sb3_ppo"}, "--ray_address is for --agent rllib_ppo, not sb3_ppo"),
        ({"num_env_runners": -1, "agent": "rllib_ppo"}, "num_env_runners must be a whole number of at least 0, got -1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(kwargs, message):
    with pytest.raises(InputError, match=message):
        filled(TrainConfig, **kwargs)


def test_nothing_is_written_where_no_ray_answers(tmp_path):
    config = filled(
        TrainConfig, agent="rllib_ppo", ray_address="127.0.0.1:1", output_dir=tmp_path / "run", max_length=32
    )
    with pytest.raises(InputError, match="no Ray head node answers"):
        train(config)
    assert not (tmp_path / "run").exists()

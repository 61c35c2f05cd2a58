"""The registry of agents: one record and one line, from outside the package, and the agent trains."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from plasticity_env import InputError
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.ppo.rank_config import RankConfig
from plasticity_env.agents.studies.curves_config import CurvesConfig
from plasticity_env.agents.training import agent as registry
from plasticity_env.agents.training import shown_episodes
from plasticity_env.agents.training.agent import AGENTS, Agent, Learner, register_agent
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.agents.training.train_run import train
from plasticity_env.common.tracking import TrackingOptions
from plasticity_env.controllers import load
from plasticity_env.controllers.ann import ANNController
from tests.conftest import filled

SMALL = {"calibration_blocks": 1, "reward_blocks": 1, "max_length": 16, "envs_per_model": 1, "horizon": 1}


@pytest.fixture
def lazy():
    """An agent that learns nothing, and what it was given."""
    given = []

    def build(config, envs):
        given.append((config, envs))
        controller = ANNController(config.ppo.make_network(), info={"agent": "lazy"})

        def learn(folder, report):
            report(config.ppo.total_timesteps, {"episode/return": 0.0})
            return controller

        return Learner(0, learn, lambda: controller)

    register_agent(Agent("lazy", build, envs=("heads", "head_edit")))
    yield given
    del AGENTS["lazy"]


def test_a_registered_agent_trains_and_its_controller_plays(lazy, tmp_path):
    config = filled(
        TrainConfig, agent="lazy", output_dir=tmp_path / "run", ppo=PPOConfig(total_timesteps=7, width=8), **SMALL
    )
    folder = train(config)
    assert lazy[0][0] is config
    assert [env.spec.id for env in lazy[0][1]] == ["plasticity/Heads-v1"]
    assert load(folder / "controller").info["agent"] == "lazy"
    assert '"global_step": 7' in (folder / "metrics.jsonl").read_text()
    CurvesConfig(agents="lazy,ppo")  # known to the study of learning curves, too


@pytest.mark.slow
def test_a_training_shows_episodes_on_the_way_and_does_not_notice(tmp_path, monkeypatch):
    """Slow: two trainings. With and without them the controller is the same; the last mask of each is the row of heads."""
    ppo = PPOConfig(total_timesteps=64, num_steps=16, num_minibatches=1, update_epochs=1, width=8)
    tracking = TrackingOptions(tensorboard=False)

    def run(name):
        config = filled(TrainConfig, output_dir=tmp_path / name, ppo=ppo, tracking=tracking, **SMALL)
        return train(config)

    def lines(folder, name):
        return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]

    shown = run("shown")
    monkeypatch.setattr(shown_episodes, "TIMES", 0)
    plain = run("plain")
    weights = [load(folder / "controller").network.state_dict() for folder in (shown, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    episodes, heads = lines(shown, "episodes"), lines(shown, "heads")
    assert [row["global_step"] for row in episodes] == [32, 48, 64, 65]
    assert [row["active"] for row in heads] == [row["steps"][-1]["active"] for row in episodes]
    assert [len(row["steps"]) for row in episodes] == [2] * 4
    assert set(episodes[0]["steps"][1]["numbers"]) == {"reward", "ppl", "flops_kept"}
    assert [row["global_step"] for row in lines(plain, "episodes")] == [65]
    last = lines(plain, "episodes")[0]
    pruned = sum(row["edit"] == "prune" and row["flop_price"] == 4.0 for row in lines(plain, "decisions"))
    assert last["title"] == "flop_price 4"
    assert pruned == sum(entry == 0 for row in last["steps"][-1]["active"] for entry in row)


def test_what_an_agent_cannot_do_is_said_before_anything_is_loaded(lazy, tmp_path):
    with pytest.raises(
        InputError, match=r"lazy trains on --env heads or head_edit, not head_rank: for head_rank use .*es"
    ):
        TrainConfig(agent="lazy", env="head_rank")
    with pytest.raises(InputError, match=r"--capacity is for --agent sb3_ppo or .*, not lazy"):
        TrainConfig(agent="lazy", capacity=64)
    with pytest.raises(InputError, match="lazy keeps no checkpoint"):
        train(TrainConfig(agent="lazy", output_dir=tmp_path, resume=True))
    with pytest.raises(InputError, match="'ppo' comes with the package"):
        register_agent(Agent("ppo", "nowhere:nothing"))
    with pytest.raises(InputError, match="did you mean 'heads'"):
        register_agent(Agent("other", "nowhere:nothing", envs=("head",)))
    with pytest.raises(InputError, match=r"nowhere is not installed: pip install 'plasticity-env\[ray\]'"):
        Agent("other", "nowhere:nothing", package=("nowhere", "ray")).learner(TrainConfig(), [])
    assert not lazy


def test_every_agent_that_comes_with_the_package_can_be_found():
    assert {"ppo", "sb3_ppo", "sb3_maskable_ppo", "rllib_ppo", "es"} <= set(AGENTS)
    for agent in AGENTS.values():
        module, _, name = str(agent.build).partition(":")
        assert module == "plasticity_env.agents.training.builders"
        assert callable(getattr(__import__(module, fromlist=[name]), name))
    assert set(registry.SPECIAL) <= set(TrainConfig.__dataclass_fields__)


@pytest.mark.slow
def test_the_search_trains_from_the_same_command_and_goes_on(tmp_path):
    """Slow: an evolution strategy plays episodes for every candidate, twice over."""
    config = filled(
        TrainConfig,
        agent="es",
        env="head_rank",
        output_dir=tmp_path / "run",
        ppo=PPOConfig(total_timesteps=1),
        rank=RankConfig(rounds="1", pruned_share="0.3"),
        **SMALL,
    )
    folder = train(config)
    steps = load(folder / "controller").info["global_step"]
    assert steps >= 1
    assert (folder / "history.json").is_file()
    again = train(replace(config, resume=True, ppo=PPOConfig(total_timesteps=steps + 1)))
    assert load(again / "controller").info["global_step"] > steps

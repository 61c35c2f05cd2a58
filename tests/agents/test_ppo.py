"""PPO: its parts against independent computations, and the whole on a problem with a known answer."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml

from plasticity_env import InputError
from plasticity_env.agents.ppo.checkpoint import write_state
from plasticity_env.agents.ppo.padding import MaskedCategoricals, decide, environment_action, pad
from plasticity_env.agents.ppo.ppo import PPO, Rollout
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.ppo.rank_config import RankConfig
from plasticity_env.agents.training.agent import find_agent
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.agents.training.train_run import check_resumed, train
from plasticity_env.agents.training.training_envs import make_environments
from plasticity_env.common.arguments import fill, flat, plain
from plasticity_env.common.tracking import TrackingOptions
from plasticity_env.controllers.network import HeadNetwork, NetworkConfig
from plasticity_env.envs.observation import GLOBAL_FEATURES, HEAD_FEATURES, Observation
from tests.conftest import SMALL, filled


def make(env_id="plasticity/Heads-v1", **kwargs):
    return gym.make(env_id, **{**SMALL, "repair": "none", "obs_signal": False, "residual_signal": False, **kwargs})


def test_advantages_equal_the_textbook_sum():
    random = np.random.default_rng(0)
    steps, gamma, lam = 7, 0.9, 0.8
    rewards, values = (torch.from_numpy(random.standard_normal((steps, 1))) for _ in range(2))
    last = torch.tensor([0.7], dtype=torch.float64)
    dones = torch.zeros(steps, 1, dtype=torch.float64)
    bootstraps = torch.zeros(steps, 1, dtype=torch.float64)
    dones[2] = dones[4] = 1.0
    bootstraps[4] = 1.5  # truncated after step 4, terminated after step 2
    ppo = PPO([Bandit(2)], PPOConfig(gamma=gamma, gae_lambda=lam))
    nothing = torch.zeros(0)
    batch = pad([ppo.envs[0].reset(seed=0)[0]], 2)
    found = ppo._advantages(Rollout(batch, nothing, nothing, nothing, rewards, values, dones, bootstraps, last))
    after = torch.cat([values[1:], last[None]])
    after[2], after[4] = 0.0, 1.5
    deltas = rewards + gamma * after - values
    ends = {0: 2, 1: 2, 2: 2, 3: 4, 4: 4, 5: 6, 6: 6}
    for t in range(steps):
        expected = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, ends[t] + 1))
        assert found[t] == pytest.approx(float(expected), abs=1e-9)


def test_masked_actions_are_never_drawn_and_probabilities_add_up():
    logits = torch.randn(3, 5, 4)
    mask = torch.rand(3, 5, 4) > 0.4
    mask[..., 0] = True
    valid = torch.ones(3, 5, dtype=torch.bool)
    valid[1, 4] = False
    distribution = MaskedCategoricals(logits, mask, valid)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([distribution.sample(generator) for _ in range(4000)])  # (S, 3, 5)
    assert mask[None].expand(4000, -1, -1, -1).gather(-1, draws[..., None]).all()
    share = torch.stack([(draws == a).float().mean(0) for a in range(4)], -1)
    expected = logits.masked_fill(~mask, -torch.inf).softmax(-1)
    assert (share - expected).abs().max() < 0.04
    assert distribution.log_prob(draws[0])[1, 4] == 0
    reference = torch.distributions.Categorical(probs=expected).entropy()
    assert torch.allclose(distribution.entropy()[valid], reference[valid], atol=1e-4)


def test_padded_head_edit_actions_reach_the_right_head():
    envs = [make("plasticity/HeadEdit-v1"), make("plasticity/HeadEdit-v1", model_name="bard-llama-4x8")]
    observations = [env.reset(seed=0)[0] for env in envs]
    batch = pad(observations, 32)
    distribution = decide(HeadNetwork(NetworkConfig()), batch, one_edit=True).actions
    allowed = distribution.log_probs[:, 0] > -1e6
    for row, observation in enumerate(observations):
        heads = len(observation["heads"])
        actions = {
            environment_action(np.array([a]), heads, 32, True) for a in allowed[row].nonzero().flatten().tolist()
        }
        assert actions == set(np.flatnonzero(observation["action_mask"]))


class Bandit(gym.Env):
    """Pruning head i pays +1 where its Fisher z-score is negative and -1 where not; one step an episode."""

    kind = "heads"

    def __init__(self, heads: int):
        template = make().unwrapped
        self.observation_space = gym.spaces.Dict(
            {**template.observation_space.spaces, "heads": gym.spaces.Box(-9, 9, (heads, len(HEAD_FEATURES)))}
        )
        self.action_space = gym.spaces.MultiDiscrete([4] * heads)
        self.head_slots, self.dense_flops, self.heads = heads, 1.0, heads

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.tokens = self.np_random.standard_normal((self.heads, len(HEAD_FEATURES))).astype(np.float32)
        mask = np.zeros((self.heads, 4), dtype=np.int8)
        mask[:, :2] = 1
        shared = np.zeros(len(GLOBAL_FEATURES), dtype=np.float32)
        values = {"heads": self.tokens, "globals": shared, "action_mask": mask}
        self.observation = Observation(self.kind, values)
        return self.observation, {}

    def step(self, action):
        from plasticity_env.envs.observation import head_column

        gain = -np.sign(head_column(self.observation, "fisher_z"))
        info = {"ppl": 1.0, "flops": 1.0, "active_heads": 1, "invalid_actions": 0}
        return self.observation, float((gain * (action == 1)).sum()), True, False, info


def test_ppo_learns_which_heads_to_prune():
    """A problem with a known answer, in environments of two sizes at once."""
    returns: list[float] = []
    config = PPOConfig(total_timesteps=6144, num_steps=32, learning_rate=3e-3, seed=3)
    ppo = PPO(
        [Bandit(6), Bandit(10), Bandit(6), Bandit(10)],
        config,
        callback=lambda s, m: returns.append(m["episode/return"]),
    )
    ppo.train()
    assert np.mean(returns[-3:]) > 0.8 * 4  # 8 heads on average, half of them worth pruning
    assert np.mean(returns[:2]) < 1.5


def test_resuming_is_exact(tmp_path):
    def train(folder, stop=None):
        config = PPOConfig(total_timesteps=48, num_steps=4, num_minibatches=2, update_epochs=2, checkpoint_every=1)
        ppo = PPO([make(horizon=3), make(horizon=3, model_name="bard-llama-4x8")], config, folder)
        if stop is not None:
            ppo.callback = lambda step, metrics: (_ for _ in ()).throw(KeyboardInterrupt) if step > stop else None
            with pytest.raises(KeyboardInterrupt):
                ppo.train()
            return None
        resumed = ppo.resume()
        return resumed, ppo.train().network.state_dict()

    whole = train(tmp_path / "whole")
    train(tmp_path / "cut", stop=20)
    again = train(tmp_path / "cut")
    assert (whole[0], again[0]) == (False, True)
    assert all(torch.equal(whole[1][key], again[1][key]) for key in whole[1])


def test_resuming_with_other_arguments_is_refused(tmp_path):
    config = PPOConfig(total_timesteps=8, num_steps=4, num_minibatches=2, update_epochs=1, checkpoint_every=1)
    PPO([make()], config, tmp_path).train()
    other = PPO([make()], PPOConfig(**{**config.__dict__, "learning_rate": 0.1}), tmp_path)
    with pytest.raises(InputError, match=r"trained with learning_rate=0.001, not 0.1"):
        other.resume()


@pytest.mark.parametrize("env", ["heads", "head_rank"])
def test_a_checkpoint_of_another_agent_is_refused(env, tmp_path):
    small = {"calibration_blocks": 2, "reward_blocks": 2, "max_length": 16, "envs_per_model": 1}
    config = filled(TrainConfig, env=env, output_dir=tmp_path, resume=True, **small)
    write_state(tmp_path, {"config": {}, "rllib": {}, "global_step": 8})
    with pytest.raises(InputError, match="belongs to another agent"):
        find_agent(config.agent).learner(config, make_environments(config))


def test_truncation_bootstraps_and_termination_does_not():
    class Endless(Bandit):
        def step(self, action):
            observation, _, _, _, info = super().step(action)
            return observation, 1.0, False, False, info

    config = PPOConfig(total_timesteps=8, num_steps=4, num_minibatches=1, update_epochs=1)
    ppo = PPO([gym.wrappers.TimeLimit(Endless(4), 2)], config)
    ppo.observations = [ppo.envs[0].reset(seed=0)[0]]
    final = float(ppo._values(ppo.observations)[0])
    rollout, _ = ppo._rollout()
    returns = ppo._advantages(rollout) + rollout.values
    # steps 1 and 3 end by the time limit: return = reward + value of the final state (this env never changes within one)
    assert returns[1, 0] == pytest.approx(1.0 + final, abs=1e-4)


@pytest.mark.parametrize("env_id", ["plasticity/Heads-v1", "plasticity/HeadEdit-v1"])
@pytest.mark.parametrize("context", ["deep_sets", "attention"])
def test_one_training_runs_over_models_of_several_sizes(env_id, context):
    config = PPOConfig(total_timesteps=16, num_steps=4, num_minibatches=2, update_epochs=1, context=context)
    envs = [make(env_id), make(env_id, model_name="bard-llama-4x8")]
    ppo = PPO(envs, config)
    before = {key: value.clone() for key, value in ppo.network.state_dict().items()}
    ppo.train()
    assert ppo.global_step == 16
    assert any(not torch.equal(before[key], value) for key, value in ppo.network.state_dict().items())


@pytest.mark.parametrize("env", ["heads", "head_edit"])
def test_the_language_model_learns_between_decisions(env, tmp_path, text_file):
    """A rollout needs no gradient, the fine-tuning within it does."""
    small = {"calibration_blocks": 2, "reward_blocks": 2, "max_length": 16, "envs_per_model": 2, "horizon": 2}
    small["dataset"] = text_file  # the train split of the embedded text takes ten seconds to tokenise
    ppo = PPOConfig(total_timesteps=8, num_steps=2, num_minibatches=1, update_epochs=1)
    config = filled(TrainConfig, env=env, train_steps=2, ppo=ppo, output_dir=tmp_path / "run", **small)
    folder = train(config)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    env = make(train_steps=2, max_length=16, dataset=text_file)
    env.reset(seed=0)
    model = env.unwrapped.model
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad():
        env.step(np.zeros(env.action_space.nvec.shape, dtype=int))
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_environments_of_two_ids_are_refused():
    with pytest.raises(InputError, match="must be of one id"):
        PPO([make(), make("plasticity/HeadEdit-v1")], PPOConfig())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "other.txt"}, "dataset='shakespeare', not 'other.txt'"),
        ({"repair": "none"}, "repair="),
        ({"units": "heads+mlp"}, "units="),
        ({"max_length": 16}, "max_length=32, not 16"),
        ({"calibration_blocks": 2}, "calibration_blocks="),
        ({"max_sparsity": 0.5}, "max_sparsity="),
        ({"model_name": "bard-llama-4x8"}, "model_name="),
        ({"flop_price": (1.0, 8.0)}, "flop_price="),
        ({"agent": "rllib_ppo"}, "agent="),
        ({"env": "head_rank"}, "env="),
        ({"rank": RankConfig(rounds="2")}, "rounds="),
    ],
)
def test_a_run_does_not_go_on_under_other_arguments(tmp_path, changes, said):
    config = filled(TrainConfig, max_length=32, output_dir=tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain(config), sort_keys=False))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=said):
        train(fill(config, {"resume": True, **changes}))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_may_change_is_not_compared_and_a_run_without_arguments_goes_on(tmp_path):
    config = filled(TrainConfig, output_dir=tmp_path, resume=True)
    check_resumed(config)
    older = {key: value for key, value in flat(config).items() if key != "units"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    moved = replace(config, tracking=TrackingOptions(track=True), start_from="ann")
    check_resumed(replace(moved, ppo=PPOConfig(total_timesteps=10)))
    (tmp_path / "config.yaml").write_text("- 1")
    with pytest.raises(InputError, match="holds no arguments"):
        check_resumed(config)


def test_a_controller_is_not_said_to_read_signals_that_its_environments_do_not_measure():
    assert TrainConfig().signals() == ["obs_signal", "residual_signal", "crossfit_signal"]
    assert filled(TrainConfig, obs_signal=False, crossfit_signal=False).signals() == ["residual_signal"]
    assert filled(TrainConfig, residual_signal=False).signals() == [
        "obs_signal"
    ]  # cross-fitted scores come with the residual ones

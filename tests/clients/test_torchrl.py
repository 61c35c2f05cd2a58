"""TorchRL: `GymEnv(id)` passes TorchRL's own check and rolls out."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import SMALL

pytest.importorskip("torchrl", reason="TorchRL is not installed: make clients installs it")
IDS = ["plasticity/Heads-v1", "plasticity/HeadEdit-v1", "plasticity/HeadRank-v1"]


@pytest.mark.parametrize("observation", ["dict", "flat"])
@pytest.mark.parametrize("env_id", IDS)
def test_gym_env_passes_torchrls_check(env_id, observation):
    from torchrl.envs import GymEnv, check_env_specs

    env = GymEnv(f"plasticity_env:{env_id}", observation=observation, **SMALL)
    env.set_seed(0)
    check_env_specs(env)
    rollout = env.rollout(SMALL["horizon"])
    assert rollout["next", "reward"].isfinite().all()
    assert rollout["next", "done"][-1].all() or env_id == "plasticity/HeadEdit-v1"  # whose agent may stop by itself
    assert ("heads" if observation == "dict" else "observation") in rollout.keys()  # noqa: SIM118 (a tensordict)


def test_an_unknown_argument_is_what_torchrl_expects():
    from torchrl.envs import GymEnv

    with pytest.raises(TypeError, match="unexpected keyword argument 'frame_stack'"):
        GymEnv("plasticity_env:plasticity/Heads-v1", frame_stack=2, **SMALL)


def test_an_actor_learns_from_a_rollout():
    from tensordict.nn import TensorDictModule
    from torchrl.envs import GymEnv
    from torchrl.modules import MaskedCategorical, ProbabilisticActor

    env = GymEnv("plasticity_env:plasticity/HeadEdit-v1", categorical_action_encoding=True, **SMALL)
    net = torch.nn.LazyLinear(int(env.action_spec.space.n))
    scores = TensorDictModule(
        lambda heads, mask: (net(heads.flatten(-2)), mask.bool()), ["heads", "action_mask"], ["logits", "mask"]
    )  # masks are int8, as Gymnasium has them
    actor = ProbabilisticActor(
        scores, in_keys=["logits", "mask"], distribution_class=MaskedCategorical, return_log_prob=True
    )
    env.set_seed(0)
    rollout = env.rollout(SMALL["horizon"], actor)
    chosen = rollout["action_mask"].gather(-1, rollout["action"].unsqueeze(-1)).bool()
    assert chosen.all()
    before = net.weight.detach().clone()
    (-actor.get_dist(rollout).log_prob(rollout["action"]) * rollout["next", "reward"].squeeze(-1)).sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    assert net.weight.isfinite().all()
    assert not torch.equal(net.weight, before)

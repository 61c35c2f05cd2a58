"""What a state machine plays: an environment with what it showed and paid, and the arguments that are drawn for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st

from plasticity_env.repair.registry import REPAIRS
from tests.plasticity_env.envs.toy_models import ARCHITECTURES, BLOCKS, TOKENS


@st.composite
def arguments(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """Architecture, id and arguments of an environment."""
    kind = draw(st.sampled_from(("Heads", "HeadRank", "HeadEdit", "Levels")))
    trains = draw(st.booleans()) and kind != "Levels"
    reward = draw(st.sampled_from(("ppl_per_flop", "kl", "budget")))
    values: dict[str, Any] = {
        "max_length": TOKENS,
        "calibration_blocks": 2,
        "reward_blocks": 2,
        "batch_size": 2,
        "horizon": 4,
        "flop_price": draw(st.sampled_from((4.0, (1.0, 16.0)))),
        "mode": draw(st.sampled_from(("adaptive", "compressed"))),
        "repair": draw(st.sampled_from(sorted(REPAIRS))),
        "units": draw(st.sampled_from(("heads", "heads+mlp"))),
        "mlp_blocks": BLOCKS,
        "neuron_order": "stored",  # what is computed is compared with the model as it was loaded, to the bit
        "reward": reward,
        "residual_signal": draw(st.booleans()),
        "obs_signal": draw(st.booleans()),
        "crossfit_signal": draw(st.booleans()),
        "train_steps": int(trains),
        "min_heads_per_layer": draw(st.integers(0, 1)),
        "max_sparsity": draw(st.sampled_from((0.5, 0.75, 1.0))),
    }
    values |= {"flop_budget": 0.9} if reward == "budget" else {}
    if trains:
        values |= {"learning_rate": 1e-3, "grow_warmup_steps": 2, "train_streams": 2}
        values |= {"growth_init": draw(st.sampled_from(("random", "copy", "transfer")))}
    if kind in ("HeadRank", "Levels"):
        values |= {"pruned_share": (0.1, 0.4)}
    if kind == "Levels":
        values |= {"max_sparsity": 1.0, "action": draw(st.sampled_from(("scores", "levels")))}
    return draw(st.sampled_from(ARCHITECTURES)), f"plasticity/{kind}-v{int(kind != 'Levels')}", values


@dataclass
class Play:
    """One environment, and what it showed and paid since its episode began."""

    env: Any
    shown: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    rewards: list[float] = field(default_factory=list)
    start: float = 0.0  # potential
    masks: list[torch.Tensor] = field(default_factory=list)
    over: bool = False

    @property
    def state(self) -> Any:
        return self.env._state

    def begin(self, shown: Any, info: dict[str, Any]) -> None:
        self.shown, self.info, self.rewards, self.over = shown, info, [], False
        self.masks = [self.state.active]
        self.start = potential(self)

    def step(self, action: Any) -> tuple[Any, ...]:
        self.shown, reward, self.over, truncated, self.info = self.env.step(action)
        assert not truncated
        self.rewards.append(reward)
        self.masks.append(self.state.active)
        return dict(self.shown), reward, self.over, self.info

    def twin(self, env: Any) -> Play:
        return Play(env, self.shown, self.info, list(self.rewards), self.start, list(self.masks), self.over)


def potential(play: Play) -> float:
    """Phi, from what the environment says of losses and FLOPs, by the formulas of its page."""
    state, values = play.state, play.env.settings
    kept = math.log(play.info["flops"] / play.env.dense_flops)
    quality = state.reference[min(state.step, len(state.reference) - 1)] - play.info["loss"]
    if values.reward == "budget":
        return quality - 32.0 * max(0.0, kept - math.log(state.budget))
    return (-state.measurement.kl if values.reward == "kl" else quality) - state.price * kept
